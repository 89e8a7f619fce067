from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import pytest
import redis

from app.jobs.broker import QUEUE, JobQueue, local_broker, redis_broker
from app.jobs.crew import Crew
from app.repositories.jobs import Analyst
from tests.processes import wait_until


class FakeAnalyst:
    """Does one analysis until it is told to stop, and then hands it over."""

    def __init__(self) -> None:
        self.resumed = 0
        self.begun: list[int] = []
        self.queue: JobQueue
        self._stop = threading.Event()

    def resume(self) -> None:
        self.resumed += 1

    def look_after(self) -> None:
        self._stop.wait()

    def stop(self) -> None:
        self._stop.set()

    def perform(self, analysis_id: int) -> None:
        self.begun.append(analysis_id)
        self._stop.wait()
        self.queue.send(analysis_id)


def crew_of(analyst: FakeAnalyst, queue: JobQueue, *, alone: bool = False) -> Crew:
    analyst.queue = queue
    return Crew(queue, cast(Analyst, analyst), size=1, alone=alone)


@pytest.mark.parametrize("alone", [True, False])
def test_only_who_is_alone_takes_up_what_was_left(alone: bool) -> None:
    analyst = FakeAnalyst()
    crew = crew_of(analyst, JobQueue(local_broker(), analyst.perform), alone=alone)
    crew.start()
    crew.stop(10)
    assert analyst.resumed == int(alone)


def test_what_is_handed_over_is_there_for_others_at_once(connect_redis: Callable[[], redis.Redis]) -> None:
    client = connect_redis()
    analyst = FakeAnalyst()
    crew = crew_of(analyst, JobQueue(redis_broker(client), analyst.perform))
    crew.start()
    analyst.queue.send(7)
    wait_until(lambda: analyst.begun, what="the analysis to begin")
    analyst.queue.send(8)
    crew.stop(10)
    assert analyst.begun == [7]
    assert client.llen(f"dramatiq:{QUEUE}") == 2


def test_a_crew_stops_without_redis(
    connect_redis: Callable[[], redis.Redis], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = redis_broker(connect_redis())
    analyst = FakeAnalyst()
    crew = crew_of(analyst, JobQueue(broker, analyst.perform))
    crew.start()
    monkeypatch.setattr(crew._worker, "stop", _fail)
    crew.stop(10)
    assert "messages could not be given back, and will be missed: ConnectionError" in caplog.messages


def _fail(timeout: int) -> None:
    raise redis.ConnectionError
