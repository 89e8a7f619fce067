from __future__ import annotations

import threading

import pytest

from app.database.engine import DatabaseUnavailable
from app.jobs import sweep
from app.jobs.sweep import Sweep


class Chore:
    """Fails so often as it is told to, and counts when it is done."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.done = 0

    def __call__(self) -> None:
        if self.faults:
            raise self.faults.pop()
        self.done += 1


@pytest.fixture(autouse=True)
def without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SWEEP_SECONDS", 0.0)


def run(chores: list[Chore], hourly: list[Chore], rounds: int) -> None:
    left = [None] * rounds

    def end() -> None:
        left.pop()
        if not left:
            swept.stop()

    swept = Sweep([*chores, end], hourly)
    swept.run()


def test_what_is_hourly_is_done_at_once_and_not_again() -> None:
    often, hourly = Chore(), Chore()
    run([often], [hourly], rounds=3)
    assert (often.done, hourly.done) == (3, 1)


def test_what_is_hourly_is_done_each_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "HOUR_SECONDS", -1.0)
    hourly = Chore()
    run([], [hourly], rounds=3)
    assert hourly.done == 3


def test_it_survives_what_nobody_thought_of(caplog: pytest.LogCaptureFixture) -> None:
    poor, well = Chore(ZeroDivisionError(), DatabaseUnavailable()), Chore()
    run([poor, well], [], rounds=3)
    assert (poor.done, well.done) == (1, 3)
    assert [record.levelname for record in caplog.records if record.name == sweep.__name__] == ["ERROR"]


def test_it_stops_in_the_middle_of_its_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SWEEP_SECONDS", 1000.0)
    swept = Sweep([], [])
    thread = threading.Thread(target=swept.run)
    thread.start()
    swept.stop()
    thread.join(timeout=10)
    assert not thread.is_alive()
