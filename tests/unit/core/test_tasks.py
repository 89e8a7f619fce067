from __future__ import annotations

import pytest

from app.core import tasks
from app.core.errors import Unavailable
from app.core.tasks import InstanceTask
from tests.unit.conftest import Clock, count_of, set_clock

LAST_SUCCESS, INTERVAL = "reporadar_task_last_success_timestamp_seconds", "reporadar_task_interval_seconds"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return set_clock(monkeypatch, tasks)


def test_last_success_is_exported(clock: Clock) -> None:
    started = clock.now
    task = InstanceTask("a task", 2)
    clock.now += 10
    task.fail(Unavailable("down"))
    assert count_of(LAST_SUCCESS, scope="instance", task="a task") == started
    assert count_of(INTERVAL, scope="instance", task="a task") == 2
    task.succeed()
    task.set_interval(30)
    assert count_of(LAST_SUCCESS, scope="instance", task="a task") == clock.now
    assert count_of(INTERVAL, scope="instance", task="a task") == 30


def test_only_the_first_failure_of_an_outage_is_a_warning(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    task = InstanceTask("a task", 2)
    for error in ("one", "two"):
        task.fail(Unavailable(error))
    task.succeed()
    task.fail(Unavailable("three"))
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "background task a task failed and will run again: one",
        "background task a task failed and will run again: three",
    ]
