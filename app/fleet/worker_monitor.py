"""The health check `workers` of an instance: whether workers run, succeed with their tasks and keep up with the events.

It also exports the metrics of the workers, which have no `/metrics`.
"""

import logging
import time
from typing import Protocol

import gevent
import redis

from app.core import metrics
from app.core.errors import Unavailable
from app.core.tasks import InstanceTask
from app.core.warnings import OperatorWarning
from app.fleet.worker_store import WorkerRegistry
from app.jobs.task_record import SharedTaskRecord

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
# Workers of the previous release send no heartbeat. Every worker records the success of a task every 5 s.
SEEN_SECONDS = 10.0
NO_WORKER = OperatorWarning("no_worker", "no worker runs, and work is waiting: start one with python -m app.worker")


class JobBacklog(Protocol):
    queued: int  # jobs that wait for a worker, when they were last counted

    def export(self) -> None:
        """Count the jobs. Raises Unavailable."""


class EventBacklog(Protocol):
    waiting: int  # accepted events that no worker has stored yet, when they were last counted

    def find_warning(self) -> OperatorWarning | None:
        """Count the events. Return what an operator should know about them. Raises redis.RedisError."""


class WorkerMonitor:
    def __init__(self, registry: WorkerRegistry, tasks: SharedTaskRecord, jobs: JobBacklog, events: EventBacklog) -> None:
        self.warning: OperatorWarning | None = None
        self.is_any_seen = True  # whether a worker has sent a heartbeat or finished a task in the last SEEN_SECONDS
        self._registry = registry
        self._tasks = tasks
        self._jobs = jobs
        self._events = events
        self._task = InstanceTask("worker monitor", INTERVAL_SECONDS)

    @property
    def is_worker_needed(self) -> bool:
        """Whether work waits and no worker runs."""
        return not self.is_any_seen and self.queued_jobs + self.waiting_events > 0

    @property
    def queued_jobs(self) -> int:
        return self._jobs.queued

    @property
    def waiting_events(self) -> int:
        return self._events.waiting

    def run(self) -> None:
        """Check forever, as a greenlet. If Redis does not answer, its own check fails and the last result stays."""
        while True:
            try:
                self.check()
            except (Unavailable, redis.RedisError) as error:
                self._task.fail(error)
            else:
                self._task.succeed()
            gevent.sleep(INTERVAL_SECONDS)

    def check_once(self) -> None:
        """Check in a process that runs no monitors: a command. Raises Unavailable and redis.RedisError."""
        self._jobs.export()
        self.check()

    def check(self) -> None:
        """Update the warning and the metrics. Raises Unavailable and redis.RedisError."""
        count = self._registry.count()
        metrics.workers.set(count)
        metrics.job_seconds.replace(self._registry.job_seconds())
        of_tasks, of_events = self._tasks.find_warning(), self._events.find_warning()  # both, because they also export metrics
        self.is_any_seen = count > 0 or time.time() - self._tasks.last_success < SEEN_SECONDS
        warning = NO_WORKER if self.is_worker_needed else of_tasks or of_events
        if warning and warning != self.warning:
            log.warning("workers: %s", warning)
        self.warning = warning
