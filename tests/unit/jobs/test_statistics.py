from __future__ import annotations

import pytest

from app.core import metrics
from app.jobs.statistics import FAILED, LOST, RELEASED, RETRIED, SUCCEEDED, JobStatistics
from tests.unit.conftest import count_of


@pytest.fixture
def statistics() -> JobStatistics:
    metrics.job_seconds.take()
    return JobStatistics()


def attempts(outcome: str) -> float:
    return count_of("reporadar_job_seconds_count", kind="export", outcome=outcome)


def test_attempts_are_counted_by_outcome(statistics: JobStatistics) -> None:
    for outcome in (SUCCEEDED, FAILED, RETRIED, RELEASED, LOST):
        with statistics.measure("export") as attempt:
            assert statistics.running == 1
            attempt.outcome = outcome
        assert attempts(outcome) == 1
    assert (statistics.running, statistics.finished, statistics.released) == (0, 2, 1)


def test_unforeseen_error_is_a_lost_job(statistics: JobStatistics) -> None:
    with pytest.raises(ZeroDivisionError), statistics.measure("export"):
        1 / 0  # noqa: B018
    assert (statistics.running, statistics.finished, attempts(LOST)) == (0, 0, 1)
