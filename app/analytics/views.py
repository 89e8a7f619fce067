"""`/api/analytics/`: opt-out, events and erasure."""

from typing import Any

from flask import Blueprint, Response, json
from pydantic import BaseModel, Field

from app.analytics import tracking
from app.analytics.service import OptOutStatus
from app.core.timestamps import iso
from app.http.api import Body, json_response, operation

MAX_EVENTS = 100
GPC_LAST_UPDATE = "2026-11-26"

blueprint = Blueprint("analytics", __name__)


class OptOutView(BaseModel):
    """`reason` of an opt-out: the account's (user), this browser's (session) or the Sec-GPC header (gpc)."""

    opted_out: bool
    reason: str | None
    fenced_at: str | None


class ErasedView(BaseModel):
    """The number of erased events, and the time before which anonymous events cannot be attributed to anybody."""

    erased: int
    not_linkable_before: str


class EventsBody(Body):
    events: list[Any] = Field(  # each is validated on its own, so that an invalid one does not affect the others
        min_length=1,
        max_length=MAX_EVENTS,
        description="Each is {id?, name, category, properties?, occurred_at?}.",
    )


class FaultView(BaseModel):
    field: str
    message: str


class RejectedView(BaseModel):
    index: int
    errors: list[FaultView]


class AcceptedView(BaseModel):
    accepted: int
    rejected: list[RejectedView]
    opted_out: bool


@blueprint.get("/api/analytics/opt-out")
@operation("Whether you are counted, and if not, why", returns={200: OptOutView})
def opt_out_state() -> Response:
    return _answer_status(tracking.opt_out_status())


@blueprint.put("/api/analytics/opt-out")
@operation("Opt out of analytics", returns={200: OptOutView})
def opt_out() -> Response:
    return _answer_status(tracking.opt_out())


@blueprint.delete("/api/analytics/opt-out")
@operation("Opt in to analytics again", returns={200: OptOutView})
def opt_in() -> Response:
    return _answer_status(tracking.opt_in())


@blueprint.post("/api/analytics/events", endpoint="take")
@operation("Send events", body=EventsBody, returns={202: AcceptedView})
def accept(body: EventsBody) -> Response:
    events, rejected = tracking.validate(body.events)
    is_accepted = tracking.accept(events)
    view = AcceptedView(
        accepted=len(events) if is_accepted else 0,
        rejected=[RejectedView.model_validate(vars(event)) for event in rejected],
        opted_out=not is_accepted,
    )
    return json_response(view, 202)


@blueprint.delete("/api/analytics/me")
@operation("Erase your events", returns={200: ErasedView})
def erase() -> Response:
    erased = tracking.erase()
    return json_response(ErasedView(erased=erased.count, not_linkable_before=iso(erased.not_linkable_before)))


@blueprint.get("/.well-known/gpc.json")
def global_privacy_control() -> Response:
    """https://www.w3.org/TR/gpc/#gpc-support-resource"""
    body = json.dumps({"gpc": True, "lastUpdate": GPC_LAST_UPDATE})
    return Response(body, content_type="application/json", headers={"Cache-Control": "public, max-age=86400"})


def _answer_status(status: OptOutStatus) -> Response:
    fenced_at = iso(status.opted_out_at) if status.opted_out_at else None
    return json_response(OptOutView(opted_out=status.opted_out, reason=status.reason, fenced_at=fenced_at))
