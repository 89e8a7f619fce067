from __future__ import annotations

import pytest
import redis

from app.analytics.event_stream import StreamMonitor
from app.analytics.partitions import SINGLE
from tests.unit.conftest import count_of


@pytest.fixture
def monitor(redis_client: redis.Redis) -> StreamMonitor:
    return StreamMonitor(redis_client)


def test_no_warning_without_a_problem(monitor: StreamMonitor) -> None:
    assert monitor.find_warning() is None


def test_old_backlog_is_a_warning(monitor: StreamMonitor, redis_client: redis.Redis) -> None:
    redis_client.xadd(SINGLE.stream, {"event": "old"}, id="1000-1")
    assert "check that a worker is running" in (monitor.find_warning() or "")


def test_new_events_are_no_warning(monitor: StreamMonitor, redis_client: redis.Redis) -> None:
    redis_client.xadd(SINGLE.stream, {"event": "new"})
    assert monitor.find_warning() is None


def test_backlog_and_dead_letters_are_metrics(monitor: StreamMonitor, redis_client: redis.Redis) -> None:
    redis_client.xadd(SINGLE.stream, {"event": "new"})
    redis_client.xadd(SINGLE.dead_letters, {"event": "bad"})
    monitor.find_warning()
    assert (count_of("reporadar_events_waiting"), count_of("reporadar_events_put_aside")) == (1, 1)
    assert monitor.waiting == 1


def test_dead_letters_are_a_warning(monitor: StreamMonitor, redis_client: redis.Redis) -> None:
    redis_client.xadd(SINGLE.dead_letters, {"event": "bad"})
    warning = monitor.find_warning()
    assert warning == "1 events are dead-lettered: list them with flask --app wsgi events dead-letters"
    assert warning.reason == "dead_letters"


def test_other_type_of_key_is_a_warning(monitor: StreamMonitor, redis_client: redis.Redis) -> None:
    redis_client.set(SINGLE.stream, "something else")
    assert monitor.find_warning() == "cannot read the event stream analytics:events: WRONGTYPE"
