from __future__ import annotations

import pytest

from app.realtime.drained_sockets import REMEMBERED_SECONDS, DrainedSockets


def test_drained_sockets_are_counted_by_user_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("app.realtime.drained_sockets.time.monotonic", lambda: now)
    drained = DrainedSockets()
    for user_id in (1, 1, 2):
        drained.add(user_id)
    assert [drained.count(user_id) for user_id in (1, 2, 3)] == [2, 1, 0]
    now += REMEMBERED_SECONDS - 1
    drained.add(1)
    now += 2
    assert [drained.count(user_id) for user_id in (1, 2)] == [1, 0]
