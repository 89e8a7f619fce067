"""The stops that a rehearsal reads from the fleet."""

from __future__ import annotations

import json
from http.client import HTTPMessage

import pytest

from app.operations.rehearsal import observers
from app.operations.rehearsal.http_client import BalancerClient, HttpResponse, NoResponse
from app.operations.rehearsal.measurements import ReportedStop
from app.operations.rehearsal.observers import StopHistory

STOP = {"nonce": "a", "instance_id": "instance-1", "kind": "clean", "summary": "clean in 3.1 s"}
FLEET = json.dumps({"stops": [STOP, {**STOP, "nonce": "b", "role": "instance"}, {**STOP, "nonce": "c", "role": "worker"}]})


class FakeClient(BalancerClient):
    """Answers with these statuses, one after the other; 0: no response."""

    def __init__(self, *statuses: int) -> None:
        self._statuses = iter(statuses)

    def get(self, path: str, cookie: str = "", *, fresh: bool = True) -> HttpResponse:
        if status := next(self._statuses):
            return HttpResponse(status, HTTPMessage(), FLEET.encode() if status == 200 else b"")
        raise NoResponse


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "RETRY_SECONDS", 0)


def test_history_has_the_stops_of_instances() -> None:
    stop = ReportedStop("instance-1", "clean", "clean in 3.1 s")
    assert StopHistory(FakeClient(200), "cookie").read() == {"a": stop, "b": stop}


def test_history_is_read_again_while_the_fleet_does_not_answer() -> None:
    """Otherwise the stops before the rehearsal would count as stops of the rehearsal."""
    assert StopHistory(FakeClient(503, 0, 200), "cookie").read()


def test_history_is_unknown_if_the_fleet_never_answers() -> None:
    assert StopHistory(FakeClient(*[503] * observers.ATTEMPTS), "cookie").read() is None
