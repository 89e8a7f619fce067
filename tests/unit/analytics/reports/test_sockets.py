from __future__ import annotations

import gevent
import pytest

from app.analytics.reports import sockets
from app.analytics.reports.sockets import LiveCounter
from harness.greenlets import until


def test_counter_batches_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "EMIT_INTERVAL_SECONDS", 0.02)
    told: list[int] = []
    counter = LiveCounter(told.append)
    for _ in range(100):
        counter.on_stored({"count": 3})
        gevent.sleep(0)
    until(lambda: sum(told) == 300)
    counter.on_stored({"count": 1})
    until(lambda: sum(told) == 301)
    assert told[-1] == 1
    assert len(told) < 100


def test_counter_continues_after_a_failed_emit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "EMIT_INTERVAL_SECONDS", 0.001)
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *_: None)  # it would print the traceback
    told: list[int] = []

    def tell(count: int) -> None:
        told.append(count)
        raise RuntimeError("a fault")

    counter = LiveCounter(tell)
    for number in (1, 2):
        counter.on_stored({"count": number})
        until(lambda: len(told) == number)  # noqa: B023 - called at once
    assert told == [1, 2]
