from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.jobs import task_record
from app.jobs.task_record import KEY, LocalTaskRecord, SharedTaskRecord
from tests.unit.conftest import Clock, count_of, set_clock

LAST_SUCCESS, INTERVAL = "reporadar_task_last_success_timestamp_seconds", "reporadar_task_interval_seconds"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return set_clock(monkeypatch, task_record)


def test_success_of_a_worker_is_exported_by_an_instance(connect_redis: Callable[[], redis.Redis], clock: Clock) -> None:
    worker, instance = SharedTaskRecord(connect_redis()), SharedTaskRecord(connect_redis())
    worker.start("purge", 3600)
    clock.now += 100
    worker.succeed("purge", 3600)
    worker.start("purge", 3600)  # another worker: no success
    assert instance.find_warning() is None
    assert count_of(LAST_SUCCESS, scope="fleet", task="purge") == clock.now
    assert count_of(INTERVAL, scope="fleet", task="purge") == 3600


def test_task_that_no_longer_succeeds_is_a_warning(redis_client: redis.Redis, clock: Clock) -> None:
    record = SharedTaskRecord(redis_client)
    record.start("purge", 3600)
    record.start("sweep", 5)
    clock.now += 310
    assert record.find_warning() is None
    clock.now += 10
    assert record.find_warning() == "periodic task sweep no longer succeeds: check that a worker runs, and read its log"
    record.succeed("sweep", 5)
    clock.now += 10
    assert record.find_warning() is None


def test_task_that_no_longer_exists_is_forgotten(redis_client: redis.Redis, clock: Clock) -> None:
    record = SharedTaskRecord(redis_client)
    record.start("removed", 3600)
    clock.now += 8 * 86_400
    assert record.find_warning() is None
    assert count_of(LAST_SUCCESS, scope="fleet", task="removed") == 0


def test_missing_redis_does_not_stop_the_tasks(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    record = SharedTaskRecord(redis.Redis(port=1, retry=Retry(NoBackoff(), 0)))
    record.start("purge", 3600)
    for _ in range(3):
        record.succeed("purge", 3600)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "start of periodic task purge not recorded: ConnectionError",
        "success of periodic task purge not recorded: ConnectionError",
    ]


def test_embedded_instance_exports_its_own_tasks(clock: Clock) -> None:
    record = LocalTaskRecord()
    record.start("local", 5)
    clock.now += 3
    record.succeed("local", 5)
    assert count_of(LAST_SUCCESS, scope="fleet", task="local") == clock.now


def test_record_is_one_hash(redis_client: redis.Redis, clock: Clock) -> None:
    SharedTaskRecord(redis_client).succeed("purge", 3600)
    assert redis_client.hgetall(KEY) == {b"purge": b"3600 1760000000.000"}
