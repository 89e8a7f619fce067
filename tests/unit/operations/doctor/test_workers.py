from __future__ import annotations

from typing import Any

import pytest
import redis

from app.core.errors import Unavailable
from app.core.warnings import OperatorWarning
from app.operations.doctor import workers
from app.operations.doctor.findings import Finding

RUNNING = {
    "instance_id": "one-worker",
    "status": "running",
    "uptime": 9,
    "version": "1.0",
    "running_jobs": 1,
    "max_jobs": 2,
    "last_heartbeat": "2026-11-30T12:00:00.000Z",
}
LISTED = Finding("ok", "fleet: worker one-worker is running, up for 9 s, version 1.0, runs 1 of at most 2 jobs")


class FakeMonitor:
    def __init__(
        self, *, is_any_seen: bool = True, jobs: int = 0, events: int = 0, warning: OperatorWarning | None = None
    ) -> None:
        self.is_any_seen, self.queued_jobs, self.waiting_events, self.warning = is_any_seen, jobs, events, warning
        self.error: Exception | None = None

    @property
    def is_worker_needed(self) -> bool:
        return not self.is_any_seen and self.queued_jobs + self.waiting_events > 0

    def check_once(self) -> None:
        if self.error:
            raise self.error


def examine(monitor: FakeMonitor, *listed: dict[str, Any]) -> list[Finding]:
    return list(workers.examine(list(listed), monitor))


def test_running_and_stopping_workers_are_no_problem() -> None:
    stopping = Finding("ok", LISTED.text.replace("running", "stopping"))
    assert examine(FakeMonitor(jobs=3), RUNNING, RUNNING | {"status": "stopping"}) == [LISTED, stopping]


def test_work_without_a_worker_is_a_failure() -> None:
    (finding,) = examine(FakeMonitor(is_any_seen=False, jobs=3, events=41))
    assert finding.status == "fail"
    assert finding.text == "fleet: no worker runs, and work is waiting (queued jobs: 3, analytics events: 41)"
    assert "python -m app.worker" in finding.advice


def test_missing_worker_without_work_is_a_warning() -> None:
    (finding,) = examine(FakeMonitor(is_any_seen=False))
    assert (finding.status, finding.text.partition(":")[2].partition(":")[0]) == ("warn", " no worker runs")
    assert "python -m app.worker" in finding.advice


def test_worker_that_is_not_listed_is_a_warning_even_if_work_waits() -> None:
    (finding,) = examine(FakeMonitor(jobs=3))
    assert finding.status == "warn"
    assert finding.text.startswith("fleet: no worker sends heartbeats, but one was at work in the last 10 s")


def test_silent_worker_is_a_warning() -> None:
    listed, finding = examine(FakeMonitor(), RUNNING, RUNNING | {"instance_id": "two-worker", "status": "missing"})
    assert listed == LISTED
    assert finding.status == "warn"
    assert finding.text.startswith("fleet: worker two-worker is missing")
    assert finding.text.endswith(": no heartbeat since 2026-11-30T12:00:00.000Z")


def test_warning_of_the_health_check_is_a_warning() -> None:
    monitor = FakeMonitor()
    monitor.warning = OperatorWarning("events_waiting", "events wait")
    _, finding = examine(monitor, RUNNING)
    assert (finding.status, finding.text) == ("warn", "fleet: workers: events wait")


@pytest.mark.parametrize("error", [Unavailable("The database does not answer."), redis.ConnectionError("refused")])
def test_stores_that_do_not_answer_end_the_examination(error: Exception) -> None:
    monitor = FakeMonitor()
    monitor.error = error
    (finding,) = examine(monitor, RUNNING)
    assert finding.status == "warn"
    assert finding.text.startswith("fleet: the workers were not examined: ")
