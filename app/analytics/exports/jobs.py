"""The export job: reads events page by page, and stores them as the compressed parts of a file."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from app.analytics.exports import store
from app.analytics.exports.file import CsvFile, ExportedEvent
from app.analytics.exports.store import Export, ExportLease
from app.core.errors import Unavailable
from app.database.batches import run_batches
from app.database.engine import Database
from app.jobs.failures import JobFailed, JobStopped, LeaseLost
from app.jobs.leases import LEASE_DURATION, RUNNING, NotYet
from app.jobs.runner import DATABASE_RETRY_SECONDS, PROGRESS_INTERVAL_SECONDS, JobRunner, Send
from app.jobs.statistics import JobStatistics
from app.notifications.service import Notification, Notifications

P = ParamSpec("P")
T = TypeVar("T")

PAGE_SIZE = 1000  # events per transaction
WRITE_BATCH = 100  # events written without a pause: in an embedded instance the same thread serves requests
PAUSE_SECONDS = 0.001  # with 0, gevent would not switch to other greenlets after each batch
READ_TIMEOUT_SECONDS = 5.0
DELETE_BATCH = 50  # parts per transaction


class ExportRunner(JobRunner[ExportLease]):
    kind = "export"

    def __init__(
        self, database: Database, notifications: Notifications, send: Send, statistics: JobStatistics | None = None
    ) -> None:
        super().__init__(database, store.leases, send, notifications.push, statistics)
        self._notifications = notifications

    def claim(self, connection: Connection, job_id: int, token: str) -> ExportLease | NotYet | None:
        return store.claim(connection, job_id, token)

    def work(self, lease: ExportLease) -> int:
        """Write the file and return its number of events."""
        while self._retry(store.discard_parts, lease, DELETE_BATCH):
            pass
        expected = self._retry(store.estimate_rows, lease.export)
        file, reported_at = CsvFile(), 0.0
        for events in self._pages(lease.export):
            self._write(file, events)
            if file.has_full_part or time.monotonic() - reported_at > PROGRESS_INTERVAL_SECONDS:
                self._report_progress(lease, file, expected)
                reported_at = time.monotonic()
        self._add_part(lease, file, progress=99)
        return file.rows

    def succeed(self, connection: Connection, lease: ExportLease, outcome: int) -> list[Notification]:
        title = f"Your export of {outcome:,} event{'' if outcome == 1 else 's'} is ready"
        data = {"export_id": lease.job_id, "rows": outcome}
        added = self._notifications.add(connection, [lease.export.user_id], "export.ready", title, data)
        if not store.succeed(connection, lease, outcome):
            raise LeaseLost
        return added

    def fail(self, connection: Connection, lease: ExportLease, error: str) -> list[Notification]:
        title = "Your export of events failed"
        added = self._notifications.add(connection, [lease.export.user_id], "message", title, {"error": error})
        if not store.fail(connection, lease, error):
            raise LeaseLost
        return added

    def release(self, connection: Connection, lease: ExportLease, *, attempts: int, delay: timedelta) -> bool:
        return store.leases.release(connection, lease, attempts=attempts, delay=delay)

    def publish_state(self, job_id: int) -> None:
        if export := self._database.run(store.find, job_id):
            self._notifications.publish_export(export.user_id, export.state)

    def purge(self) -> bool:
        """Delete expired exports and the parts of failed ones for a while. Return whether the next call has to continue."""
        return run_batches(lambda: not self._stop.is_set() and self._database.run(store.purge, DELETE_BATCH) > 0)

    def _pages(self, export: Export) -> Iterator[list[ExportedEvent]]:
        events, cursor = self._retry(store.read_page, export, None, PAGE_SIZE)
        while events:
            yield events
            events, cursor = self._retry(store.read_page, export, cursor, PAGE_SIZE)

    def _write(self, file: CsvFile, events: list[ExportedEvent]) -> None:
        for start in range(0, len(events), WRITE_BATCH):
            file.add(events[start : start + WRITE_BATCH])
            time.sleep(PAUSE_SECONDS)

    def _report_progress(self, lease: ExportLease, file: CsvFile, expected: int) -> None:
        progress = min(99, 100 * file.rows // max(expected, file.rows, 1))
        if file.has_full_part:
            self._add_part(lease, file, progress)
        elif not self._retry(store.save_progress, lease, progress=progress, rows=file.rows):
            raise JobStopped
        state = {"id": lease.job_id, "status": RUNNING, "progress": progress, "rows": file.rows}
        self._notifications.publish_export(lease.export.user_id, state)

    def _add_part(self, lease: ExportLease, file: CsvFile, progress: int) -> None:
        number, part = file.parts, file.take_part()
        if not self._retry(store.add_part, lease, number, part, progress=progress, rows=file.rows):
            raise JobStopped

    def _retry(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction, and retry it until the lease would expire. Raises JobFailed, or JobStopped when told to stop."""
        deadline = time.monotonic() + LEASE_DURATION.total_seconds()
        while not self._stop.is_set():
            try:
                return self._database.run_within(READ_TIMEOUT_SECONDS, work, *args, **kwargs)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise JobFailed("The database did not answer for a while.", permanent=False) from None
                self._stop.wait(DATABASE_RETRY_SECONDS)
        raise JobStopped
