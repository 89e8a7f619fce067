from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import redis

from app.job_wiring import Crew
from app.jobs.broker import JobQueue, Queues, local_broker, redis_broker
from harness.processes import wait_until


class Doer:
    """Does one job until it is told to stop, and then hands it over."""

    def __init__(self, queue: JobQueue) -> None:
        self.resumed = 0
        self.begun: list[int] = []
        self.queue = queue
        queue.perform = self.perform
        self._stop = threading.Event()

    def resume(self) -> None:
        self.resumed += 1

    def stop(self) -> None:
        self._stop.set()

    def perform(self, job_id: int) -> None:
        self.begun.append(job_id)
        self._stop.wait()
        self.queue.send(job_id)


class Hand:
    def __init__(self) -> None:
        self.has_ended = False
        self._stop = threading.Event()

    def run(self) -> None:
        self._stop.wait()
        self.has_ended = True

    def stop(self) -> None:
        self._stop.set()


def test_a_crew_that_was_stopped_before_does_not_start() -> None:
    queues = Queues(local_broker())
    doer, hand = Doer(queues.analyses), Hand()
    crew = Crew(queues.broker, [doer], [hand], size=1, alone=True)
    crew.stop(10)
    crew.start()
    assert (doer.resumed, hand.has_ended) == (0, False)


@pytest.mark.parametrize("alone", [True, False])
def test_only_who_is_alone_takes_up_what_was_left(alone: bool) -> None:
    queues = Queues(local_broker())
    doers, hands = [Doer(queues.analyses), Doer(queues.exports)], [Hand(), Hand()]
    crew = Crew(queues.broker, doers, hands, size=1, alone=alone)
    crew.start()
    crew.stop(10)
    assert [doer.resumed for doer in doers] == [int(alone)] * 2
    assert [hand.has_ended for hand in hands] == [True, True]


def test_what_is_handed_over_is_there_for_others_at_once(connect_redis: Callable[[], redis.Redis]) -> None:
    client = connect_redis()
    queues = Queues(redis_broker(client))
    doer = Doer(queues.analyses)
    crew = Crew(queues.broker, [doer], [Hand()], size=1)
    crew.start()
    queues.analyses.send(7)
    wait_until(lambda: doer.begun, what="the job to begin")
    queues.analyses.send(8)
    crew.stop(10)
    assert doer.begun == [7]
    assert client.llen("dramatiq:analyses") == 2


def test_a_crew_stops_without_redis(
    connect_redis: Callable[[], redis.Redis], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queues = Queues(redis_broker(connect_redis()))
    crew = Crew(queues.broker, [Doer(queues.analyses)], [Hand()], size=1)
    crew.start()
    monkeypatch.setattr(crew._worker, "stop", _fail)
    crew.stop(10)
    assert "messages could not be given back, and will be missed: ConnectionError" in caplog.messages


def _fail(timeout: int) -> None:
    raise redis.ConnectionError
