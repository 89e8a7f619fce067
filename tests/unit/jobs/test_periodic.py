from __future__ import annotations

import threading

import pytest

from app.database.engine import DatabaseUnavailable
from app.jobs import periodic
from app.jobs.periodic import PeriodicTasks


class FakeTask:
    """Raises the given errors one after the other, then counts its successful runs."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.successes = 0

    def __call__(self) -> None:
        if self.errors:
            raise self.errors.pop()
        self.successes += 1


@pytest.fixture(autouse=True)
def no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "INTERVAL_SECONDS", 0.0)


def run(frequent: list[FakeTask], hourly: list[FakeTask], rounds: int) -> None:
    remaining = [None] * rounds

    def stop_after_last_round() -> None:
        remaining.pop()
        if not remaining:
            tasks.stop()

    tasks = PeriodicTasks([*frequent, stop_after_last_round], hourly)
    tasks.run()


def test_hourly_task_runs_at_the_start_and_not_again_within_the_hour() -> None:
    frequent, hourly = FakeTask(), FakeTask()
    run([frequent], [hourly], rounds=3)
    assert (frequent.successes, hourly.successes) == (3, 1)


def test_hourly_task_runs_again_after_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "HOUR_SECONDS", -1.0)
    hourly = FakeTask()
    run([], [hourly], rounds=3)
    assert hourly.successes == 3


def test_failed_task_is_logged_and_runs_again(caplog: pytest.LogCaptureFixture) -> None:
    failing, healthy = FakeTask(ZeroDivisionError(), DatabaseUnavailable()), FakeTask()
    run([failing, healthy], [], rounds=3)
    assert (failing.successes, healthy.successes) == (1, 3)
    records = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == periodic.__name__]
    assert records == [("ERROR", "periodic task FakeTask failed and will run again")]


def test_stop_interrupts_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "INTERVAL_SECONDS", 1000.0)
    tasks = PeriodicTasks([], [])
    thread = threading.Thread(target=tasks.run)
    thread.start()
    tasks.stop()
    thread.join(timeout=10)
    assert not thread.is_alive()
