"""Databases of both kinds, with administrators and events."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update

from app.analytics import rollups
from app.analytics.exports import file, store
from app.analytics.exports.store import Export, ExportLease
from app.analytics.rollups import CountedEvent
from app.auth import store as accounts
from app.core.messages import Message, user_room
from app.database.engine import Database
from app.database.schema import events, exports
from app.notifications.service import Notifications

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)


class Published(list[tuple[str, dict[str, Any]]]):
    """Messages that were published, as kind and data."""

    def add(self, messages: Sequence[Message]) -> None:
        assert all(message.room == user_room(message.data["user_id"]) for message in messages)
        self.extend((message.kind, message.data) for message in messages)

    def states(self) -> list[dict[str, Any]]:
        return [message["export"] for kind, message in self if kind == "export"]

    def pushed(self) -> list[str]:
        return [message["item"]["type"] for kind, message in self if kind == "notification"]


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def notifications(both: Database, published: Published) -> Notifications:
    return Notifications(both, published.add)


@pytest.fixture
def ada(both: Database) -> int:
    return new_user(both)


def new_user(database: Database, email: str = "ada@example.org") -> int:
    return database.run(accounts.add, email, "hash").id


def event(number: int = 1, **changes: Any) -> dict[str, Any]:
    values = {
        "person": "p" * 32,
        "event_id": f"event-{number:06}",
        "name": "page_viewed",
        "category": "navigation",
        "path": "",
        "properties": {"path": "/"},
        "occurred_at": NOON,
    }
    return values | changes


def keep(database: Database, *rows: dict[str, Any]) -> None:
    """Store and count events, as the application does."""

    def work(connection: Connection) -> None:
        names = ("person", "name", "category", "path", "occurred_at")
        connection.execute(insert(events), list(rows))
        rollups.add(connection, [CountedEvent(**{name: row[name] for name in names}) for row in rows])

    database.run_within(10, work)


def ordered(database: Database, user_id: int, since: datetime = NOON - DAY, until: datetime = NOON + DAY) -> Export:
    return database.run(store.add, user_id, since, until)


def claimed(database: Database, export: Export, lease: str = "mine") -> ExportLease:
    claim = database.run(store.claim, export.id, lease)
    assert isinstance(claim, ExportLease), claim
    return claim


def let_time_pass(database: Database, export: Export, passed: timedelta, *names: str) -> None:
    """Move the times in these columns into the past."""
    row = exports.c.id == export.id

    def move(connection: Connection) -> None:
        moments = connection.execute(select(*(exports.c[name] for name in names)).where(row)).one()
        earlier = {name: moment - passed for name, moment in zip(names, moments, strict=True)}
        connection.execute(update(exports).where(row).values(earlier))

    database.run(move)


def content(database: Database, export_id: int) -> bytes:
    parts = database.run(store.count_parts, export_id)
    stored = [database.run(store.part, export_id, number) for number in range(parts)]
    return b"".join(file.decompress(part) for part in stored if part is not None)


def rows_of(document: bytes) -> list[list[str]]:
    """Return the rows without the header."""
    return list(csv.reader(io.StringIO(document.decode("utf-8-sig"), newline="")))[1:]
