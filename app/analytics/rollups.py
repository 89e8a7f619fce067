"""What the pages read instead of a million events: counts by hour and by day, kept in the transaction that stores an event.

Rows are written in one order, so that two who store at once wait for each other instead of for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, Column, Connection, Table, delete, func, literal, select, tuple_
from sqlalchemy.dialects import postgresql

from app.core.timestamps import LENGTHS, floor
from app.database.schema import rollups, visitors, visits
from app.database.upsert import insert_into

ROWS_AT_ONCE = 500  # of a statement


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


def discount(connection: Connection, deleted: Iterable[Counted]) -> int:
    """Events that are deleted in this transaction; how many."""
    counted = _by_kind(deleted)
    _subtract(connection, rollups, counted, "events")
    return counted.total() // len(LENGTHS)


def leave(connection: Connection, person: str) -> None:
    """Somebody of whom there is no event any more."""
    left = delete(visits).where(visits.c.person == person).returning(visits.c.grain, visits.c.start)
    _subtract(connection, visitors, Counter((row.grain, row.start) for row in connection.execute(left)), "visitors")


def drop(connection: Connection, oldest: datetime) -> None:
    """The counts of whole hours and days before, in no order: those that somebody else has locked go the next time."""
    for table in (rollups, visits, visitors):
        key = tuple_(*table.primary_key)
        for grain in LENGTHS:
            old = select(*table.primary_key).where(table.c.grain == grain, table.c.start < floor(oldest, grain))
            connection.execute(delete(table).where(key.in_(old.with_for_update(skip_locked=True))))


def _by_kind(events: Iterable[Counted]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (grain, floor(event.occurred_at, grain), event.name, event.category, event.path) for event in events for grain in LENGTHS
    )


def _visits(events: Iterable[Counted]) -> list[tuple[str, datetime, str]]:
    return sorted({(grain, floor(event.occurred_at, grain), event.person) for event in events for grain in LENGTHS})


def _add(connection: Connection, table: Table, counted: Counter[tuple[Any, ...]], what: str) -> None:
    """Of a hundred thousand kinds too: clients call their events as they like."""
    columns, ordered = [*table.primary_key, table.c[what]], sorted(counted.items())
    for start in range(0, len(ordered), ROWS_AT_ONCE):
        rows = [(*key, number) for key, number in ordered[start : start + ROWS_AT_ONCE]]
        filled, values = _filled(insert_into(connection, table), columns, rows)
        more = {what: table.c[what] + filled.excluded[what]}
        connection.execute(filled.on_conflict_do_update(index_elements=list(table.primary_key), set_=more), values)


def _subtract(connection: Connection, table: Table, counted: Counter[tuple[Any, ...]], what: str) -> None:
    """A count that retention has dropped already is there again for a moment, as less than nothing."""
    _add(connection, table, Counter({key: -number for key, number in counted.items()}), what)
    if counted:
        connection.execute(delete(table).where(table.c[what] <= 0))


def _insert_new(connection: Connection, rows: list[tuple[str, datetime, str]]) -> list[tuple[str, datetime, str]]:
    """Those that were not there."""
    if not rows:
        return []
    values = [{"grain": grain, "start": start, "person": person} for grain, start, person in rows]
    statement = insert_into(connection, visits).values(values).on_conflict_do_nothing()
    found = connection.execute(statement.returning(visits.c.grain, visits.c.start, visits.c.person))
    return [(row.grain, row.start, row.person) for row in found]


def _filled(insert: Any, columns: Sequence[Column[Any]], rows: Sequence[tuple[Any, ...]]) -> tuple[Any, Any]:
    """The statement, and what it is carried out for. PostgreSQL is given an array for each column: row by row, or with
    thousands of parameters, it takes many times longer."""
    if not isinstance(insert, postgresql.Insert):
        return insert, [dict(zip((column.name for column in columns), row, strict=True)) for row in rows]
    arrays = [literal(list(values), ARRAY(column.type)) for column, values in zip(columns, zip(*rows, strict=True), strict=True)]
    return insert.from_select(columns, select(*map(func.unnest, arrays))), None
