"""How jobs get to those who do them: Dramatiq, over Redis in a fleet, inside of the process of an embedded instance.

A message says no more than which job is to be done. It is a hint: what there is to do stands in SQL, and what nobody was told of
is found there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import DramatiqError

log = logging.getLogger(__name__)

# A worker that was killed is noticed after this time, and its messages are given to the next one; the defaults take minutes.
HEARTBEAT_TIMEOUT_MS = 15_000
MAINTENANCE_CHANCE = 1_000_000  # in a million: with every look for messages


def redis_broker(client: redis.Redis) -> dramatiq.Broker:
    return RedisBroker(  # type: ignore[no-untyped-call]
        client=client, middleware=[], heartbeat_timeout=HEARTBEAT_TIMEOUT_MS, maintenance_chance=MAINTENANCE_CHANCE
    )


def local_broker() -> dramatiq.Broker:
    return StubBroker(middleware=[])


class JobQueue:
    """One kind of job, by its id. `perform` is set in a process that works."""

    def __init__(self, broker: dramatiq.Broker, noun: str, *, actor: str, queue: str) -> None:
        self.perform: Callable[[int], None] = self._not_here
        self._noun = noun
        self._actor = dramatiq.actor(broker=broker, actor_name=actor, queue_name=queue)(lambda job_id: self.perform(job_id))

    def send(self, job_id: int, delay_seconds: float = 0) -> None:
        """Does not raise: what can't be sent now is sent by the sweep."""
        try:
            self._actor.send_with_options(args=(job_id,), delay=int(delay_seconds * 1000) or None)
        except (DramatiqError, redis.RedisError) as error:
            log.warning("a message for %s %d could not be sent: %s", self._noun, job_id, type(error).__name__)

    def _not_here(self, job_id: int) -> None:
        raise RuntimeError(f"{self._noun} {job_id} came to a process that does no jobs")


class Queues:
    """All kinds of jobs."""

    def __init__(self, broker: dramatiq.Broker) -> None:
        self.broker = broker
        self.analyses = JobQueue(broker, "analysis", actor="analyse", queue="analyses")
        self.exports = JobQueue(broker, "export", actor="export", queue="exports")
