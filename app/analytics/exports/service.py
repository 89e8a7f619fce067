"""Exports: files of the stored events for administrators. Each administrator sees only their own exports."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from app.analytics.exports import file, store
from app.analytics.exports.store import Export
from app.core.errors import Conflict, Invalid, NotFound, TooMany
from app.database.engine import Database
from app.database.locks import lock_user
from app.jobs.leases import SUCCEEDED

__all__ = ["Export", "Exports"]

MAX_ACTIVE = 3  # queued or running exports of one administrator
RETRY_AFTER_SECONDS = 30

Enqueue = Callable[[int], None]  # takes the ID of an export; does not raise, as lost messages are sent again


@dataclass(frozen=True)
class Download:
    export: Export
    content: Iterator[bytes]  # read part by part while it is sent


class Exports:
    def __init__(self, database: Database, dispatch: Enqueue) -> None:
        self._database = database
        self._dispatch = dispatch

    def request(self, user_id: int, since: datetime, until: datetime) -> Export:
        """Request an export from `since` (inclusive) to `until` (exclusive). Raises Invalid and TooMany."""
        if since >= until:
            raise Invalid.field("to", "The end must be later than the start.")
        export = self._database.run(_add, user_id, since, until)
        self._dispatch(export.id)
        return export

    def list(self, user_id: int) -> list[Export]:
        """Return the newest exports first."""
        return self._database.run(store.list_by_user, user_id)

    def download(self, user_id: int, export_id: int) -> Download:
        """Raises NotFound, and Conflict if the export has not finished or has failed."""
        export, parts = self._database.run(_find_finished, user_id, export_id)
        return Download(export, (self._part(export_id, number) for number in range(parts)))

    def erase_account(self, connection: Connection, user_id: int) -> None:
        """Delete all exports of an account in the transaction that deletes the account."""
        store.delete_all(connection, user_id)

    def _part(self, export_id: int, number: int) -> bytes:
        content = self._database.run(store.part, export_id, number)
        if content is None:  # an aborted download is better than a file that looks complete
            raise _not_found()
        return file.decompress(content)


def _add(connection: Connection, user_id: int, since: datetime, until: datetime) -> Export:
    lock_user(connection, user_id)
    if store.count_active(connection, user_id) >= MAX_ACTIVE:
        message = f"{MAX_ACTIVE} of your exports are waiting or running. Wait until one of them has finished."
        raise TooMany(message, RETRY_AFTER_SECONDS)
    return store.add(connection, user_id, since, until)


def _find_finished(connection: Connection, user_id: int, export_id: int) -> tuple[Export, int]:
    """Return the export and the number of its parts."""
    export = store.find_own(connection, user_id, export_id)
    if export is None:
        raise _not_found()
    if export.is_active:
        raise Conflict(f"This export is not ready yet: {export.progress} % has been written.")
    if export.status != SUCCEEDED:
        raise Conflict(f"This export failed: {export.error}")
    return export, store.count_parts(connection, export_id)


def _not_found() -> NotFound:
    return NotFound("You have no such export. Exports are deleted after 7 days.")
