from __future__ import annotations

import logging
from collections.abc import Callable

import dramatiq
import pytest
import redis

from app.core import config
from app.jobs.broker import JobQueues, local_broker, redis_broker
from app.redis.client import connect
from harness.servers import fleet_environment, free_port, wait_until
from tests.unit.conftest import UNUSED_DATABASE_URL


@pytest.fixture(params=["local", "redis_client", "cluster_client"])
def broker(request: pytest.FixtureRequest) -> dramatiq.Broker:
    if request.param == "local":
        return local_broker()
    return redis_broker(request.getfixturevalue(request.param))


def test_messages_are_delivered_to_the_handler_of_their_queue(broker: dramatiq.Broker) -> None:
    done: list[tuple[str, int]] = []
    queues = JobQueues(broker)
    queues.analyses.handler = lambda analysis_id: done.append(("analysis", analysis_id))
    queues.exports.handler = lambda export_id: done.append(("export", export_id))
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
    worker.start()
    try:
        queues.analyses.send(7)
        queues.analyses.send(8, 0.05)
        queues.exports.send(7)
        queues.exports.send(9, 0.0001)
        for name in ("analyses", "exports"):
            broker.join(name, timeout=60_000)
    finally:
        worker.stop()
    assert sorted(done) == [("analysis", 7), ("analysis", 8), ("export", 7), ("export", 9)]


def test_message_is_delivered_to_another_process(connect_redis: Callable[[], redis.Redis]) -> None:
    JobQueues(redis_broker(connect_redis())).analyses.send(7)
    done: list[int] = []
    broker = redis_broker(connect_redis())
    JobQueues(broker).analyses.handler = done.append
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
    worker.start()
    broker.join("analyses", timeout=60_000)
    worker.stop()
    assert done == [7]


@pytest.mark.parametrize("error", [redis.ConnectionError, redis.ReadOnlyError])
def test_threads_survive_an_outage_while_they_enqueue_delayed_messages(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, error: type[redis.RedisError]
) -> None:
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 0.05)
    broker = redis_broker(redis_client)
    done: list[int] = []
    queues = JobQueues(broker)
    queues.analyses.handler = done.append
    failed: list[str] = []
    dispatch = broker.scripts["dispatch"]  # type: ignore[attr-defined]

    def fail_to_enqueue(args: list[str], keys: list[str]) -> object:
        if args[0] in ("enqueue", "requeue"):
            failed.append(args[0])
            raise error
        return dispatch(args=args, keys=keys)

    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=1)
    queues.analyses.send(7, 0.2)
    broker.scripts["dispatch"] = fail_to_enqueue  # type: ignore[attr-defined]
    worker.start()
    try:
        wait_until(lambda: failed, what="the message to be due")
        broker.scripts["dispatch"] = dispatch  # type: ignore[attr-defined]
        queues.analyses.send(8, 0.1)
        wait_until(lambda: 8 in done, what="the next delayed message")
    finally:
        worker.stop()


def test_failure_to_enqueue_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    settings = config.load(fleet_environment(f"redis://127.0.0.1:{free_port()}", UNUSED_DATABASE_URL))
    queues = JobQueues(redis_broker(connect(settings, "test")))
    with caplog.at_level(logging.WARNING):
        queues.analyses.send(7)
        queues.exports.send(8, 1)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "analysis 7 not enqueued",
        "export 8 not enqueued",
    ]
