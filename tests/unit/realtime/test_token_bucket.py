from __future__ import annotations

import time

import pytest

from app.realtime.token_bucket import TokenBucket


def test_bucket_allows_a_burst_and_refills_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bucket = TokenBucket(2, 5)
    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]
    now += 1
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now += 1000
    assert (bucket.take(6), bucket.take(5)) == (False, True)
