"""How jobs get to those who do them: Dramatiq, over Redis in a fleet, inside of the process of an embedded instance.

A message says no more than which analysis is to be done. It is a hint: what there is to do stands in SQL, and what nobody was
told of is found there.
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

QUEUE = "analyses"
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
    """One kind of job: an analysis, by its id."""

    def __init__(self, broker: dramatiq.Broker, perform: Callable[[int], None] | None = None) -> None:
        """`perform` only in a process that works."""
        self.broker = broker
        self._actor = dramatiq.actor(broker=broker, actor_name="analyse", queue_name=QUEUE)(perform or _not_here)

    def send(self, analysis_id: int, delay_seconds: float = 0) -> None:
        """Does not raise: what can't be sent now is sent by the sweep."""
        try:
            self._actor.send_with_options(args=(analysis_id,), delay=int(delay_seconds * 1000) or None)
        except (DramatiqError, redis.RedisError) as error:
            log.warning("a message for analysis %d could not be sent: %s", analysis_id, type(error).__name__)


def _not_here(analysis_id: int) -> None:
    raise RuntimeError(f"analysis {analysis_id} came to a process that does no jobs")
