"""The workers of the fleet, and the work that waits for them."""

from collections.abc import Iterator
from typing import Any, Protocol

import redis

from app.core.errors import Unavailable
from app.core.warnings import OperatorWarning
from app.operations.doctor.findings import Finding, fail, ok, warn

START = "Start one with the environment of the instances: python -m app.worker. If one should run, read its last log lines"


class WorkerCheck(Protocol):
    """The health check of instances, run once."""

    warning: OperatorWarning | None
    is_any_seen: bool

    @property
    def is_worker_needed(self) -> bool: ...

    @property
    def queued_jobs(self) -> int: ...

    @property
    def waiting_events(self) -> int: ...

    def check_once(self) -> None:
        """Raises Unavailable and redis.RedisError."""


def examine(workers: list[dict[str, Any]], monitor: WorkerCheck) -> Iterator[Finding]:
    """Examine the workers in the report of the fleet."""
    try:
        monitor.check_once()
    except (Unavailable, redis.RedisError) as error:
        yield warn(f"fleet: the workers were not examined: {error}", "Fix the findings about Redis and the database first")
        return
    yield from map(_worker, workers)
    if monitor.is_worker_needed:
        waiting = f"queued jobs: {monitor.queued_jobs}, analytics events: {monitor.waiting_events}"
        yield fail(f"fleet: no worker runs, and work is waiting ({waiting})", START)
    elif monitor.warning:
        advice = f"docs/troubleshooting.md explains {monitor.warning.reason} in the section '/health warns'"
        yield warn(f"fleet: workers: {monitor.warning}", advice)
    elif not monitor.is_any_seen:
        yield warn("fleet: no worker runs: no repository is analysed, no export written, no analytics event stored", START)
    elif not workers:
        yield warn(
            "fleet: no worker sends heartbeats, but one was at work in the last 10 s: it has stopped, or is of an old release",
            "Run the doctor again in a moment",
        )


def _worker(about: dict[str, Any]) -> Finding:
    name, status = about["instance_id"], about["status"]
    text = f"fleet: worker {name} is {status}, up for {about['uptime']} s, version {about['version']}"
    if status == "missing":
        return warn(
            f"{text}: no heartbeat since {about['last_heartbeat']}",
            "It was killed, lost its machine, or cannot reach Redis: read its last log lines",
        )
    return ok(f"{text}, runs {about['running_jobs']} of at most {about['max_jobs']} jobs")
