"""The work behind an export: events are read page by page, and written as the compressed parts of a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from app.analytics.exports import store
from app.analytics.exports.file import Event, File
from app.analytics.exports.store import Export, ExportLease
from app.core.errors import Unavailable
from app.database.engine import Database
from app.jobs.failures import JobFailed, JobStopped
from app.jobs.leases import LEASE_DURATION, RUNNING, AlreadyLeased
from app.jobs.runner import DATABASE_RETRY_SECONDS, PROGRESS_INTERVAL_SECONDS, JobRunner, Send
from app.notifications.service import Notification, Notifications

P = ParamSpec("P")
T = TypeVar("T")

PAGE = 1000  # events that are read in one transaction
SLICE = 100  # events that are written without a pause: in an embedded instance the same thread serves requests
PAUSE_SECONDS = 0.001  # gevent would make several slices one, if it were 0
READ_SECONDS = 5.0
PARTS_AT_ONCE = 50  # that are deleted in one transaction


class Exporter(JobRunner[ExportLease]):
    kind = "export"

    def __init__(self, database: Database, notifications: Notifications, send: Send) -> None:
        super().__init__(database, store.leases, send, notifications.push)
        self._notifications = notifications

    def claim(self, connection: Connection, job_id: int, token: str) -> ExportLease | AlreadyLeased | None:
        return store.claim(connection, job_id, token)

    def work(self, lease: ExportLease) -> int:
        """How many events the file has."""
        while self._patiently(store.discard_parts, lease, PARTS_AT_ONCE):
            pass
        expected = self._patiently(store.expected_rows, lease.export)
        file, noted_at = File(), 0.0
        for events in self._pages(lease.export):
            self._write(file, events)
            if file.has_full_part or time.monotonic() - noted_at > PROGRESS_INTERVAL_SECONDS:
                self._note(lease, file, expected)
                noted_at = time.monotonic()
        self._add_part(lease, file, progress=99)
        return file.rows

    def succeed(self, connection: Connection, lease: ExportLease, outcome: int) -> list[Notification] | None:
        if not store.succeed(connection, lease, outcome):
            return None
        title = f"Your export of {outcome:,} event{'' if outcome == 1 else 's'} is ready"
        data = {"export_id": lease.job_id, "rows": outcome}
        return self._notifications.add(connection, [lease.export.user_id], "export.ready", title, data)

    def fail(self, connection: Connection, lease: ExportLease, error: str) -> list[Notification] | None:
        if not store.fail(connection, lease, error):
            return None
        return self._notifications.add(
            connection, [lease.export.user_id], "message", "Your export of events failed", {"error": error}
        )

    def release(self, connection: Connection, lease: ExportLease, *, attempts: int, delay: timedelta) -> bool:
        return store.leases.release(connection, lease, attempts=attempts, delay=delay)

    def publish_state(self, job_id: int) -> None:
        if export := self._database.run(store.one, job_id):
            self._notifications.publish_export(export.user_id, export.state)

    def purge(self) -> None:
        """Deletes what is too old."""
        while not self._stop.is_set() and self._database.run(store.purge, PARTS_AT_ONCE):
            pass

    def _pages(self, export: Export) -> Iterator[list[Event]]:
        events, last = self._patiently(store.page, export, None, PAGE)
        while events:
            yield events
            events, last = self._patiently(store.page, export, last, PAGE)

    def _write(self, file: File, events: list[Event]) -> None:
        for start in range(0, len(events), SLICE):
            file.add(events[start : start + SLICE])
            time.sleep(PAUSE_SECONDS)

    def _note(self, lease: ExportLease, file: File, expected: int) -> None:
        progress = min(99, 100 * file.rows // max(expected, file.rows, 1))
        if file.has_full_part:
            self._add_part(lease, file, progress)
        elif not self._patiently(store.note, lease, progress=progress, rows=file.rows):
            raise JobStopped
        state = {"id": lease.job_id, "status": RUNNING, "progress": progress, "rows": file.rows}
        self._notifications.publish_export(lease.export.user_id, state)

    def _add_part(self, lease: ExportLease, file: File, progress: int) -> None:
        number, part = file.parts, file.take()
        if not self._patiently(store.add_part, lease, number, part, progress=progress, rows=file.rows):
            raise JobStopped

    def _patiently(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Through an outage of the database that is no longer than the lease. Raises JobStopped as soon as that is wished."""
        deadline = time.monotonic() + LEASE_DURATION.total_seconds()
        while not self._stop.is_set():
            try:
                return self._database.run_within(READ_SECONDS, work, *args, **kwargs)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise JobFailed("The database did not answer for a while.", permanent=False) from None
                self._stop.wait(DATABASE_RETRY_SECONDS)
        raise JobStopped
