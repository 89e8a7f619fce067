"""Observations through the load balancer: readiness, and the stops that the fleet has recorded."""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gevent

from app.operations.rehearsal.http_client import BalancerClient, NoResponse
from app.operations.rehearsal.measurements import ReportedStop
from app.operations.rehearsal.stop_checks import is_named

ATTEMPTS, RETRY_SECONDS = 5, 1.0


@dataclass(frozen=True)
class StopHistory:
    """The last stops in /api/fleet, read with an administrator's session."""

    client: BalancerClient
    cookie: str

    def read(self) -> dict[str, ReportedStop] | None:
        """Return the stops of instances by the nonce of the start, or None if no attempt is answered with 200."""
        for attempt in range(ATTEMPTS):
            gevent.sleep(RETRY_SECONDS if attempt else 0)
            with suppress(NoResponse):
                response = self.client.get("/api/fleet", self.cookie)
                if response.status == 200:
                    return _stops_of_instances(json.loads(response.body)["stops"])
        return None


def _stops_of_instances(stops: Iterable[dict[str, Any]]) -> dict[str, ReportedStop]:
    return {
        stop["nonce"]: ReportedStop(stop["instance_id"], stop["kind"], stop["summary"])
        for stop in stops
        if stop.get("role") != "worker"  # the previous release lists only instances, without a role
    }


class ReadinessMonitor:
    """Polls /health/ready through the load balancer and records which instance answered with which status."""

    def __init__(self, client: BalancerClient) -> None:
        self._client = client
        self._seen: list[tuple[float, str, int]] = []  # (time, instance, status)

    def poll(self, _: int = 0) -> None:
        try:
            response = self._client.get("/health/ready", fresh=False)
        except NoResponse:
            return
        if response.instance:
            self._seen.append((time.monotonic(), response.instance, response.status))

    def first(self, instance: str, status: int, since: float, until: float | None = None) -> float | None:
        """Return when the instance first answered with that status in the given time, or None."""
        found = (at for at, name, seen in self._seen if at >= since and seen == status and is_named(name, [instance]))
        at = next(found, None)
        return at if at is not None and (until is None or at <= until) else None

    def names(self) -> set[str]:
        return {name for _, name, _ in self._seen}
