"""`/api/fleet`, for administrators: the state of all instances, and the drain of one of them."""

from flask import Blueprint, Response
from pydantic import BaseModel

from app.auth.guards import admin_required, log_action
from app.core.extensions import extension
from app.fleet.service import Fleet
from app.http.api import json_response, operation

blueprint = Blueprint("fleet", __name__, url_prefix="/api/fleet")


class ProcessView(BaseModel):
    instance_id: str
    hostname: str
    pid: int
    start_time: str
    uptime: int
    nonce: str
    status: str  # of a worker: running, stopping, or missing: no heartbeat for 3 s
    version: str


class InstanceView(ProcessView):
    cpu_percent: float
    memory_percent: float
    loop_delay_ms: float
    p95_ms: float | None
    redis_latency_ms: float | None
    database_latency_ms: float | None
    connections: int
    sockets: int
    shedding: int = 0  # sockets that the instance is moving to others; the previous release does not report it
    config_fingerprint: str
    obstacles: list[str]
    set_aside: bool


class WorkerView(ProcessView):
    last_heartbeat: str
    running_jobs: int
    max_jobs: int  # how many it runs at once
    finished_jobs: int  # since its start, successful or not


class AdviceView(BaseModel):
    instance_id: str
    metric: str
    value: float
    threshold: float
    action: str
    cause: str


class DisagreementView(BaseModel):
    kind: str
    instance_ids: list[str]
    message: str


class PhaseView(BaseModel):
    name: str
    seconds: float
    count: int | None


class StopView(BaseModel):
    instance_id: str
    role: str  # instance or worker
    nonce: str
    kind: str
    at: str
    seconds: float | None
    summary: str
    phases: list[PhaseView]


class FleetView(BaseModel):
    instances: list[InstanceView]
    workers: list[WorkerView]
    advice: list[AdviceView]
    disagreements: list[DisagreementView]
    stops: list[StopView]


class DrainView(BaseModel):
    instance_id: str
    drain: bool


@blueprint.get("")
@operation(
    "List instances, workers, advice, configuration mismatches and the last stops",
    returns={200: FleetView},
    errors=(401, 403, 503),
)
@admin_required
def overview() -> Response:
    return json_response(FleetView.model_validate(fleet().overview()))


@blueprint.post("/instances/<instance_id>/drain")
@operation(
    "Drain an instance: it turns not ready and disconnects its sockets", returns={202: DrainView}, errors=(401, 403, 404, 503)
)
@admin_required
def drain(instance_id: str) -> Response:
    set_drained(instance_id, drain=True)
    return json_response(DrainView(instance_id=instance_id, drain=True), 202)


@blueprint.delete("/instances/<instance_id>/drain", endpoint="call_back")
@operation("End the drain of an instance", returns={202: DrainView}, errors=(401, 403, 404, 503))
@admin_required
def end_drain(instance_id: str) -> Response:
    set_drained(instance_id, drain=False)
    return json_response(DrainView(instance_id=instance_id, drain=False), 202)


def set_drained(instance_id: str, *, drain: bool) -> None:
    """Drain an instance or end its drain, and audit that. Raises NotFound and Unavailable."""
    fleet().set_drained(instance_id, drain)
    log_action("instance.drained" if drain else "instance.called_back", instance=instance_id)


def fleet() -> Fleet:
    return extension(Fleet, "fleet")  # type: ignore[type-abstract]
