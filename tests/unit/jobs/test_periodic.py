from __future__ import annotations

import threading

import pytest

from app.database.engine import DatabaseUnavailable, NoFreeConnection
from app.jobs import periodic
from app.jobs.periodic import PeriodicTasks, Task
from harness.processes import PATIENCE_SECONDS


class FakeTask:
    """Raises the given errors one after the other, then counts its successful runs, of which `more` leave work to do."""

    def __init__(self, *errors: Exception, more: int = 0) -> None:
        self.errors = list(errors)
        self.more = more
        self.successes = 0

    def __call__(self) -> bool:
        if self.errors:
            raise self.errors.pop()
        self.successes += 1
        return self.successes <= self.more


class FakeRecord:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str, float]] = []

    def start(self, task: str, interval: float) -> None:
        self.calls.append(("start", task, interval))

    def succeed(self, task: str, interval: float) -> None:
        self.calls.append(("succeed", task, interval))


@pytest.fixture(autouse=True)
def no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "INTERVAL_SECONDS", 0.0)


def run(frequent: dict[str, Task], hourly: dict[str, Task], rounds: int) -> FakeRecord:
    remaining, record = [None] * rounds, FakeRecord()

    def stop_after_last_round() -> None:
        remaining.pop()
        if not remaining:
            tasks.stop()

    tasks = PeriodicTasks({**frequent, "stop": stop_after_last_round}, hourly, record)
    tasks.run()
    return record


def test_hourly_task_runs_at_the_start_and_not_again_within_the_hour() -> None:
    frequent, hourly = FakeTask(), FakeTask()
    run({"frequent": frequent}, {"hourly": hourly}, rounds=3)
    assert (frequent.successes, hourly.successes) == (3, 1)


def test_hourly_task_runs_again_after_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "HOUR_SECONDS", -1.0)
    hourly = FakeTask()
    run({}, {"hourly": hourly}, rounds=3)
    assert hourly.successes == 3


def test_hourly_task_with_more_to_do_continues_in_the_next_round() -> None:
    hourly = FakeTask(more=2)
    run({}, {"hourly": hourly}, rounds=5)
    assert hourly.successes == 3


@pytest.mark.parametrize(("pause", "successes"), [(0.0, 1), (60.0, 0)])
def test_failed_hourly_task_runs_again_after_a_short_pause(monkeypatch: pytest.MonkeyPatch, pause: float, successes: int) -> None:
    monkeypatch.setattr(periodic, "RETRY_SECONDS", pause)
    hourly = FakeTask(DatabaseUnavailable())
    run({}, {"hourly": hourly}, rounds=3)
    assert hourly.successes == successes


def test_failed_task_is_logged_with_its_name_and_runs_again(caplog: pytest.LogCaptureFixture) -> None:
    outage = DatabaseUnavailable()
    outage.__cause__ = NoFreeConnection("all connections were in use")
    failing, healthy = FakeTask(ZeroDivisionError(), outage), FakeTask()
    run({"failing": failing, "healthy": healthy}, {}, rounds=3)
    assert (failing.successes, healthy.successes) == (1, 3)
    records = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == periodic.__name__]
    assert records == [
        ("WARNING", "periodic task failing failed and will run again: all connections were in use"),
        ("ERROR", "periodic task failing failed and will run again"),
    ]


def test_start_and_each_success_are_recorded() -> None:
    record = run({"frequent": FakeTask(DatabaseUnavailable())}, {"hourly": FakeTask()}, rounds=2)
    assert [call for call in record.calls if call[1] != "stop"] == [
        ("start", "frequent", 0.0),
        ("start", "hourly", 3600.0),
        ("succeed", "hourly", 3600.0),
        ("succeed", "frequent", 0.0),
    ]


def test_stop_interrupts_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "INTERVAL_SECONDS", 1000.0)
    tasks = PeriodicTasks({}, {})
    thread = threading.Thread(target=tasks.run)
    thread.start()
    tasks.stop()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
