from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from app.analytics import event_stream
from app.analytics.event_stream import StreamMonitor
from app.analytics.partitions import SINGLE
from tests.unit.conftest import count_of


@pytest.fixture
def monitor(redis_client: redis.Redis) -> Iterator[StreamMonitor]:
    yield StreamMonitor(redis_client)
    redis_client.config_set("appendonly", "yes")


def test_no_warning_without_a_problem(monitor: StreamMonitor) -> None:
    assert monitor.find_warning() is None


def test_missing_append_only_file_is_a_warning(monitor: StreamMonitor, redis_client: redis.Redis) -> None:
    redis_client.config_set("appendonly", "no")
    assert "appendonly is off" in (monitor.find_warning() or "")


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


def test_checks_have_an_interval(monitor: StreamMonitor, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor.find_warning()
    redis_client.config_set("appendonly", "no")
    assert monitor.find_warning() is None
    monkeypatch.setattr(event_stream, "MONITOR_INTERVAL_SECONDS", -1)
    assert monitor.find_warning() is not None


def test_other_type_of_key_is_a_warning(monitor: StreamMonitor, redis_client: redis.Redis) -> None:
    redis_client.set(SINGLE.stream, "something else")
    assert monitor.find_warning() == "cannot read the event stream analytics:events: WRONGTYPE"
