"""Exports: files of the stored events that an administrator asks for. What somebody else asked for does not exist for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from app.analytics.exports import file, store
from app.analytics.exports.store import Export
from app.core.errors import Conflict, Invalid, NotFound, TooMany
from app.database.engine import Database
from app.jobs.leases import SUCCEEDED

__all__ = ["Export", "Exports"]

MAX_LIVE = 3  # exports of one administrator that are not over
RETRY_AFTER_SECONDS = 30

Dispatch = Callable[[int], None]  # export; raises nothing: what gets lost is sent again


@dataclass(frozen=True)
class Download:
    export: Export
    content: Iterator[bytes]  # read part by part while it is sent


class Exports:
    def __init__(self, database: Database, dispatch: Dispatch) -> None:
        self._database = database
        self._dispatch = dispatch

    def order(self, user_id: int, since: datetime, until: datetime) -> Export:
        """Of the events from `since` on and before `until`. Raises Invalid, TooMany."""
        if since >= until:
            raise Invalid.field("to", "The end has to be later than the beginning.")
        export = self._database.run(_order, user_id, since, until)
        self._dispatch(export.id)
        return export

    def list(self, user_id: int) -> list[Export]:
        """Newest first."""
        return self._database.run(store.of_user, user_id)

    def download(self, user_id: int, export_id: int) -> Download:
        """Raises NotFound, and Conflict if there is no file yet, or none at all."""
        export, parts = self._database.run(_finished, user_id, export_id)
        return Download(export, (self._part(export_id, number) for number in range(parts)))

    def _part(self, export_id: int, number: int) -> bytes:
        content = self._database.run(store.part, export_id, number)
        if content is None:  # better a download that breaks off than a file that looks complete
            raise _unknown()
        return file.unpacked(content)


def _order(connection: Connection, user_id: int, since: datetime, until: datetime) -> Export:
    store.lock_owner(connection, user_id)
    if store.count_live(connection, user_id) >= MAX_LIVE:
        raise TooMany(f"{MAX_LIVE} exports of yours are waiting or running. Wait until one is done.", RETRY_AFTER_SECONDS)
    return store.add(connection, user_id, since, until)


def _finished(connection: Connection, user_id: int, export_id: int) -> tuple[Export, int]:
    """With how many parts its file has."""
    export = store.own(connection, user_id, export_id)
    if export is None:
        raise _unknown()
    if export.is_live:
        raise Conflict(f"This export is not ready yet: {export.progress} % of it are written.")
    if export.status != SUCCEEDED:
        raise Conflict(f"This export failed: {export.error}")
    return export, store.count_parts(connection, export_id)


def _unknown() -> NotFound:
    return NotFound("You have no such export. Exports are deleted after 7 days.")
