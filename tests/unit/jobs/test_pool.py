from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import redis

from app.jobs.broker import JobQueue, JobQueues, local_broker, redis_broker
from app.jobs.pool import WorkerPool
from harness.processes import wait_until
from harness.servers import RedisServer


class FakeHandler:
    """Runs one job until it is stopped, and then enqueues it again."""

    def __init__(self, queue: JobQueue) -> None:
        self.requeue_calls = 0
        self.started: list[int] = []
        self._queue = queue
        self._stop = threading.Event()
        queue.handler = self.run

    def requeue_all(self) -> None:
        self.requeue_calls += 1

    def stop(self) -> None:
        self._stop.set()

    def run(self, job_id: int) -> None:
        self.started.append(job_id)
        self._stop.wait()
        self._queue.send(job_id)


class FakeBackgroundWorker:
    def __init__(self) -> None:
        self.has_ended = False
        self._stop = threading.Event()

    def run(self) -> None:
        self._stop.wait()
        self.has_ended = True

    def stop(self) -> None:
        self._stop.set()


def test_pool_stopped_before_its_start_does_not_start() -> None:
    queues = JobQueues(local_broker())
    handler, worker = FakeHandler(queues.analyses), FakeBackgroundWorker()
    pool = WorkerPool(queues.broker, [handler], [worker], size=1, is_embedded=True)
    pool.stop(10)
    pool.start()
    assert (handler.requeue_calls, worker.has_ended) == (0, False)


def test_pool_runs_until_one_of_its_threads_ends() -> None:
    queues = JobQueues(local_broker())
    workers = [FakeBackgroundWorker(), FakeBackgroundWorker()]
    pool = WorkerPool(queues.broker, [FakeHandler(queues.analyses)], workers, size=1)
    pool.start()
    try:
        assert pool.is_running()
        workers[1].stop()
        wait_until(lambda: not pool.is_running(), what="the end of a thread to be noticed")
    finally:
        pool.stop(10)


@pytest.mark.parametrize("is_embedded", [True, False])
def test_only_an_embedded_pool_requeues_unfinished_jobs(is_embedded: bool) -> None:
    queues = JobQueues(local_broker())
    handlers = [FakeHandler(queues.analyses), FakeHandler(queues.exports)]
    workers = [FakeBackgroundWorker(), FakeBackgroundWorker()]
    pool = WorkerPool(queues.broker, handlers, workers, size=1, is_embedded=is_embedded)
    pool.start()
    pool.stop(10)
    assert [handler.requeue_calls for handler in handlers] == [int(is_embedded)] * 2
    assert [worker.has_ended for worker in workers] == [True, True]


def test_released_and_prefetched_jobs_are_in_redis_after_a_stop(connect_redis: Callable[[], redis.Redis]) -> None:
    client = connect_redis()
    queues = JobQueues(redis_broker(client))
    handler = FakeHandler(queues.analyses)
    pool = WorkerPool(queues.broker, [handler], [FakeBackgroundWorker()], size=1)
    pool.start()
    queues.analyses.send(7)
    wait_until(lambda: handler.started, what="the job to start")
    queues.analyses.send(8)
    pool.stop(10)
    assert handler.started == [7]
    assert client.llen("dramatiq:analyses") == 2


def test_pool_stops_without_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dramatiq.worker.POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.05)
    with RedisServer() as server:
        queues = JobQueues(redis_broker(redis.Redis.from_url(server.url)))
        handler, worker = FakeHandler(queues.analyses), FakeBackgroundWorker()
        pool = WorkerPool(queues.broker, [handler], [worker], size=1)
        pool.start()
        queues.analyses.send(7)
        wait_until(lambda: handler.started, what="the job to start")
        queues.analyses.send(8)
        server.kill()
        pool.stop(2)
        assert worker.has_ended
        server.start()  # so that the thread of the job ends too, which acknowledges its message
        wait_until(lambda: not any(thread.is_alive() for thread in pool._worker.workers), what="the thread of the job to end")
