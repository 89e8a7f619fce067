from __future__ import annotations

import time

import pytest

from app.realtime.token_bucket import TokenBucket


def test_a_rate_is_so_many_at_once_and_then_so_many_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rate = TokenBucket(2, 5)
    assert [rate.take() for _ in range(6)] == [True] * 5 + [False]
    now += 1
    assert [rate.take() for _ in range(3)] == [True, True, False]
    now += 1000
    assert (rate.take(6), rate.take(5)) == (False, True)
