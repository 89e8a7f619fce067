from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from app.analytics import stream
from app.analytics.stream import POISON, STREAM, Overseer
from tests.unit.conftest import count_of


@pytest.fixture
def overseer(redis_client: redis.Redis) -> Iterator[Overseer]:
    yield Overseer(redis_client)
    redis_client.config_set("appendonly", "yes")


def test_all_is_well(overseer: Overseer) -> None:
    assert overseer.look() is None


def test_without_an_append_only_file_accepted_events_could_be_lost(overseer: Overseer, redis_client: redis.Redis) -> None:
    redis_client.config_set("appendonly", "no")
    assert "appendonly is off" in (overseer.look() or "")


def test_events_that_nobody_stores_are_seen(overseer: Overseer, redis_client: redis.Redis) -> None:
    redis_client.xadd(STREAM, {"event": "old"}, id="1000-1")
    assert "does a worker run" in (overseer.look() or "")


def test_events_of_this_moment_are_nothing_special(overseer: Overseer, redis_client: redis.Redis) -> None:
    redis_client.xadd(STREAM, {"event": "new"})
    assert overseer.look() is None


def test_what_waits_is_counted(overseer: Overseer, redis_client: redis.Redis) -> None:
    redis_client.xadd(STREAM, {"event": "new"})
    redis_client.xadd(POISON, {"event": "bad"})
    overseer.look()
    assert (count_of("reporadar_events_waiting"), count_of("reporadar_events_put_aside")) == (1, 1)


def test_redis_is_asked_now_and_then(overseer: Overseer, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    overseer.look()
    redis_client.config_set("appendonly", "no")
    assert overseer.look() is None
    monkeypatch.setattr(stream, "LOOK_SECONDS", -1)
    assert overseer.look() is not None


def test_something_else_in_its_place_is_no_failure_of_redis(overseer: Overseer, redis_client: redis.Redis) -> None:
    redis_client.set(STREAM, "something else")
    assert overseer.look() == "the stream of events can't be looked at: WRONGTYPE"
