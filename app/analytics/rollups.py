"""What the pages read instead of a million events: counts by hour and by day, kept in the transaction that stores an event.

Rows are written in one order, so that two who store at once wait for each other instead of for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, update
from sqlalchemy.dialects import postgresql, sqlite

from app.database.schema import rollups, visitors, visits
from app.moments import LENGTHS, floor


@dataclass(frozen=True)
class Counted:
    """What of an event is counted."""

    person: str
    name: str
    category: str
    path: str
    occurred_at: datetime


def count(connection: Connection, stored: Sequence[Counted]) -> None:
    """Events that were stored in this transaction."""
    _add(connection, rollups, _by_kind(stored), "events")
    fresh = _insert_new(connection, _visits(stored))
    _add(connection, visitors, Counter((grain, start) for grain, start, _ in fresh), "visitors")


def discount(connection: Connection, deleted: Sequence[Counted]) -> None:
    """Events that were deleted in this transaction."""
    _subtract(connection, rollups, _by_kind(deleted), "events")


def leave(connection: Connection, person: str) -> None:
    """Somebody of whom there is no event any more."""
    left = delete(visits).where(visits.c.person == person).returning(visits.c.grain, visits.c.start)
    _subtract(connection, visitors, Counter((row.grain, row.start) for row in connection.execute(left)), "visitors")


def drop(connection: Connection, oldest: datetime) -> None:
    """The counts of whole hours and days before."""
    for table in (rollups, visits, visitors):
        for grain in LENGTHS:
            connection.execute(delete(table).where(table.c.grain == grain, table.c.start < floor(oldest, grain)))


def _by_kind(events: Iterable[Counted]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (grain, floor(event.occurred_at, grain), event.name, event.category, event.path) for event in events for grain in LENGTHS
    )


def _visits(events: Iterable[Counted]) -> list[tuple[str, datetime, str]]:
    return sorted({(grain, floor(event.occurred_at, grain), event.person) for event in events for grain in LENGTHS})


def _add(connection: Connection, table: Table, counted: Counter[tuple[Any, ...]], what: str) -> None:
    if not counted:
        return
    names = [column.name for column in table.primary_key]
    rows = [dict(zip([*names, what], [*key, number], strict=True)) for key, number in sorted(counted.items())]
    statement = _dialect(connection).insert(table).values(rows)
    more = {what: table.c[what] + statement.excluded[what]}
    connection.execute(statement.on_conflict_do_update(index_elements=names, set_=more))


def _subtract(connection: Connection, table: Table, counted: Counter[tuple[Any, ...]], what: str) -> None:
    if not counted:
        return
    keys = list(table.primary_key)
    here = [column == bindparam(f"of_{column.name}") for column in keys]
    rows = [
        {"less": number, **{f"of_{column.name}": part for column, part in zip(keys, key, strict=True)}}
        for key, number in sorted(counted.items())
    ]
    connection.execute(update(table).where(*here).values({what: table.c[what] - bindparam("less")}), rows)
    connection.execute(delete(table).where(table.c[what] <= 0))


def _insert_new(connection: Connection, rows: list[tuple[str, datetime, str]]) -> list[tuple[str, datetime, str]]:
    """Those that were not there."""
    if not rows:
        return []
    values = [{"grain": grain, "start": start, "person": person} for grain, start, person in rows]
    statement = _dialect(connection).insert(visits).values(values).on_conflict_do_nothing()
    found = connection.execute(statement.returning(visits.c.grain, visits.c.start, visits.c.person))
    return [(row.grain, row.start, row.person) for row in found]


def _dialect(connection: Connection) -> Any:
    return postgresql if connection.dialect.name == "postgresql" else sqlite
