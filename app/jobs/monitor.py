"""Exports the number of unfinished jobs and the age of the oldest queued one as metrics.

Every instance exports them, because workers have no `/metrics`.
"""

from collections.abc import Mapping

import gevent
from sqlalchemy.exc import DBAPIError

from app.core import metrics
from app.core.errors import Unavailable
from app.core.tasks import InstanceTask
from app.database.engine import Database
from app.jobs.leases import QUEUED, RUNNING, Leases

INTERVAL_SECONDS = 5.0


class JobMonitor:
    def __init__(self, database: Database, leases: Mapping[str, Leases]) -> None:
        """`leases` are the jobs of each kind."""
        self._database = database
        self._leases = leases
        self.queued = 0  # jobs of all kinds, when they were last counted
        self._task = InstanceTask("job monitor", INTERVAL_SECONDS)

    def run(self) -> None:
        while True:
            try:
                self.export()
            except (Unavailable, DBAPIError) as error:  # DBAPIError: the schema is missing or too old
                self._task.fail(error)
            else:
                self._task.succeed()
            gevent.sleep(INTERVAL_SECONDS)

    def export(self) -> None:
        """Set the metrics. Raises Unavailable."""
        queued = 0
        for kind, leases in self._leases.items():
            jobs = self._database.run(leases.count_unfinished)
            queued += jobs.queued
            metrics.jobs.labels(kind, QUEUED).set(jobs.queued)
            metrics.jobs.labels(kind, RUNNING).set(jobs.running)
            metrics.job_oldest_queued.labels(kind).set(jobs.oldest_queued_seconds)
        self.queued = queued
