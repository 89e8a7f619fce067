"""Job messages: Dramatiq over Redis in a fleet, in memory in an embedded instance.

A message contains only the ID of a job. It is best effort: the job itself is a row in SQL, and a lost message is sent again.
"""

import logging
from collections.abc import Callable
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import ConnectionClosed, DramatiqError

from app.redis.client import is_cluster

log = logging.getLogger(__name__)

# The messages of a killed worker go to the next one after this time. Dramatiq's defaults take minutes.
HEARTBEAT_TIMEOUT_MS = 15_000
MAINTENANCE_CHANCE = 1_000_000  # of 1,000,000: look for dead workers with every fetch


class _Broker(RedisBroker):
    """Reports every error of Redis as a lost connection. Dramatiq tries again after one; another error may end its threads."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return the function that sends a command to the queue, such as `do_fetch`."""
        run = super().__getattr__(name)  # type: ignore[no-untyped-call]

        def run_command(*arguments: Any) -> Any:
            try:
                return run(*arguments)
            except redis.RedisError as error:
                raise ConnectionClosed(error) from error  # type: ignore[no-untyped-call]

        return run_command


def redis_broker(client: redis.Redis) -> dramatiq.Broker:
    return _Broker(  # type: ignore[no-untyped-call]
        client=client,
        middleware=[],
        # On a cluster all keys of Dramatiq share a hash tag: its scripts derive them from the namespace.
        namespace="{dramatiq}" if is_cluster(client) else "dramatiq",
        heartbeat_timeout=HEARTBEAT_TIMEOUT_MS,
        maintenance_chance=MAINTENANCE_CHANCE,
    )


def local_broker() -> dramatiq.Broker:
    return StubBroker(middleware=[])


class JobQueue:
    """The queue of one kind of job. A process that runs jobs sets `handler`, which gets the ID of each job."""

    def __init__(self, broker: dramatiq.Broker, kind: str, *, actor: str, queue: str) -> None:
        self.handler: Callable[[int], None] = self._no_handler
        self._kind = kind
        self._actor = dramatiq.actor(broker=broker, actor_name=actor, queue_name=queue)(lambda job_id: self.handler(job_id))

    def send(self, job_id: int, delay_seconds: float = 0) -> None:
        """Enqueue a job. A failure is only logged: `JobRunner.requeue_lost` sends the job again."""
        try:
            self._actor.send_with_options(args=(job_id,), delay=int(delay_seconds * 1000) or None)
        except DramatiqError as error:
            log.warning("%s %d not enqueued: %s", self._kind, job_id, type(error.__cause__ or error).__name__)

    def _no_handler(self, job_id: int) -> None:
        raise RuntimeError(f"{self._kind} {job_id} was delivered to a process that runs no jobs")


class JobQueues:
    """The queues of all kinds of jobs."""

    def __init__(self, broker: dramatiq.Broker) -> None:
        self.broker = broker
        self.analyses = JobQueue(broker, "analysis", actor="analyse", queue="analyses")
        self.exports = JobQueue(broker, "export", actor="export", queue="exports")
