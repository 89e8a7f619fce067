"""Counts by hour and by day, updated in the transaction that stores or deletes events. Reports read them instead of the events.

Concurrent transactions write rows in the same order, which avoids deadlocks.
"""

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

ROWS_PER_STATEMENT = 500


@dataclass(frozen=True)
class CountedEvent:
    """The columns of an event that the counts depend on."""

    person: str
    name: str
    category: str
    path: str
    occurred_at: datetime


def add(connection: Connection, stored: Sequence[CountedEvent]) -> None:
    """Count events that this transaction stored."""
    _increase(connection, rollups, _by_kind(stored), "events")
    new_visits = _insert_new(connection, _visits(stored))
    _increase(connection, visitors, Counter((grain, start) for grain, start, _ in new_visits), "visitors")


def subtract(connection: Connection, deleted: Iterable[CountedEvent]) -> int:
    """Uncount events that this transaction deleted, and return their number."""
    counted = _by_kind(deleted)
    _decrease(connection, rollups, counted, "events")
    return counted.total() // len(LENGTHS)


def remove_person(connection: Connection, person: str) -> None:
    """Uncount the visits of a person whose events have all been deleted."""
    removed = delete(visits).where(visits.c.person == person).returning(visits.c.grain, visits.c.start)
    _decrease(connection, visitors, Counter((row.grain, row.start) for row in connection.execute(removed)), "visitors")


def drop_before(connection: Connection, oldest: datetime) -> None:
    """Delete the counts of whole hours and days before `oldest`. Locked rows are skipped; the next run deletes them."""
    for table in (rollups, visits, visitors):
        key = tuple_(*table.primary_key)
        for grain in LENGTHS:
            old = select(*table.primary_key).where(table.c.grain == grain, table.c.start < floor(oldest, grain))
            connection.execute(delete(table).where(key.in_(old.with_for_update(skip_locked=True))))


def _by_kind(events: Iterable[CountedEvent]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (grain, floor(event.occurred_at, grain), event.name, event.category, event.path) for event in events for grain in LENGTHS
    )


def _visits(events: Iterable[CountedEvent]) -> list[tuple[str, datetime, str]]:
    return sorted({(grain, floor(event.occurred_at, grain), event.person) for event in events for grain in LENGTHS})


def _increase(connection: Connection, table: Table, counted: Counter[tuple[Any, ...]], column: str) -> None:
    """Upsert the counts in batches: clients choose the names of events, so there may be a hundred thousand rows."""
    columns, ordered = [*table.primary_key, table.c[column]], sorted(counted.items())
    for start in range(0, len(ordered), ROWS_PER_STATEMENT):
        rows = [(*key, number) for key, number in ordered[start : start + ROWS_PER_STATEMENT]]
        statement, values = _with_rows(insert_into(connection, table), columns, rows)
        total = {column: table.c[column] + statement.excluded[column]}
        connection.execute(statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=total), values)


def _decrease(connection: Connection, table: Table, counted: Counter[tuple[Any, ...]], column: str) -> None:
    """A count that retention has deleted already reappears below zero, and is deleted here."""
    _increase(connection, table, Counter({key: -number for key, number in counted.items()}), column)
    if counted:
        connection.execute(delete(table).where(table.c[column] <= 0))


def _insert_new(connection: Connection, rows: list[tuple[str, datetime, str]]) -> list[tuple[str, datetime, str]]:
    """Insert the missing visits and return them."""
    if not rows:
        return []
    values = [{"grain": grain, "start": start, "person": person} for grain, start, person in rows]
    statement = insert_into(connection, visits).values(values).on_conflict_do_nothing()
    inserted = connection.execute(statement.returning(visits.c.grain, visits.c.start, visits.c.person))
    return [(row.grain, row.start, row.person) for row in inserted]


def _with_rows(insert: Any, columns: Sequence[Column[Any]], rows: Sequence[tuple[Any, ...]]) -> tuple[Any, Any]:
    """Return the statement and its parameters. PostgreSQL gets one array per column: row by row, or with thousands of
    parameters, it takes many times longer."""
    if not isinstance(insert, postgresql.Insert):
        return insert, [dict(zip((column.name for column in columns), row, strict=True)) for row in rows]
    arrays = [literal(list(values), ARRAY(column.type)) for column, values in zip(columns, zip(*rows, strict=True), strict=True)]
    return insert.from_select(columns, select(*map(func.unnest, arrays))), None
