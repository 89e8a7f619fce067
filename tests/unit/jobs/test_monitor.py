from __future__ import annotations

from datetime import timedelta

import pytest

from app.database.engine import Database
from app.jobs.monitor import JobMonitor
from app.repositories import store
from tests.unit.conftest import count_of
from tests.unit.repositories.conftest import claimed, let_time_pass, new_repository, started


def exported(database: Database) -> tuple[float, float, float]:
    """Return the numbers of queued and of running jobs, and the age of the oldest queued one in seconds."""
    JobMonitor(database, {"analysis": store.leases}).export()
    queued, running = (count_of("reporadar_jobs", kind="analysis", state=state) for state in ("queued", "running"))
    return queued, running, count_of("reporadar_job_oldest_queued_seconds", kind="analysis")


def test_unfinished_jobs_are_counted_by_state(both: Database) -> None:
    assert exported(both) == (0, 0, 0)
    first, *_ = [started(both, new_repository(both, url=f"https://example.org/{number}")) for number in range(3)]
    let_time_pass(both, first, timedelta(minutes=1), "requested_at")
    *counts, age = exported(both)
    assert counts == [3, 0]
    assert age == pytest.approx(60, abs=5)
    claimed(both, first)
    assert exported(both)[:2] == (2, 1)


def test_finished_jobs_are_not_counted(both: Database) -> None:
    analysis = started(both, new_repository(both))
    assert both.run(store.cancel, analysis.id)
    assert exported(both) == (0, 0, 0)
