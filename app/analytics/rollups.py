"""Counts by hour and by day, updated in the transaction that stores or deletes events. Reports read them instead of the events.

Concurrent transactions write rows in the same order, which avoids deadlocks.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ARRAY, Column, Connection, Select, Table, delete, exists, func, literal, select, tuple_
from sqlalchemy.dialects import postgresql

from app.core.timestamps import LENGTHS, floor
from app.database.batches import delete_batch
from app.database.schema import events, rollups, visitors, visits
from app.database.upsert import insert_into

T = TypeVar("T")

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


def drop_before(connection: Connection, oldest: datetime, limit: int) -> int:
    """Delete counts of the time before `oldest`, whose events have been deleted: up to `limit` rows of each kind.

    Returns how many rows of the most frequent kind were deleted. Locked rows are skipped; a later run deletes them.
    """
    numbers = []
    for grain in LENGTHS:
        start = floor(oldest, grain)
        for table in (rollups, visits, visitors):
            numbers.append(delete_batch(connection, table, limit, table.c.grain == grain, table.c.start < start))
        numbers.append(_drop_visits_without_events(connection, grain, start, limit))
    return max(numbers)


def _drop_visits_without_events(connection: Connection, grain: str, start: datetime, limit: int) -> int:
    """Uncount the visits of persons who have no events left in an hour or day of which only a part has been deleted."""
    counted = select(visitors.c.visitors).where(visitors.c.grain == grain, visitors.c.start == start)
    if connection.execute(counted.with_for_update(skip_locked=True)).first() is None:
        return 0
    is_within = events.c.occurred_at >= start, events.c.occurred_at < start + LENGTHS[grain]
    has_events = exists().where(events.c.person == visits.c.person, *is_within)
    number = delete_batch(connection, visits, limit, visits.c.grain == grain, visits.c.start == start, ~has_events)
    if number:
        _decrease(connection, visitors, Counter({(grain, start): number}), "visitors")
    return number


def _by_kind(events: Iterable[CountedEvent]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (grain, floor(event.occurred_at, grain), event.name, event.category, event.path) for event in events for grain in LENGTHS
    )


def _visits(events: Iterable[CountedEvent]) -> list[tuple[str, datetime, str]]:
    return sorted({(grain, floor(event.occurred_at, grain), event.person) for event in events for grain in LENGTHS})


def _increase(connection: Connection, table: Table, counted: Counter[tuple[Any, ...]], column: str) -> None:
    """Upsert the counts in batches: clients choose the names of events, so there may be a hundred thousand rows."""
    columns = [*table.primary_key, table.c[column]]
    for batch in _batches(sorted(counted.items())):
        statement, values = _with_rows(insert_into(connection, table), columns, [(*key, number) for key, number in batch])
        total = {column: table.c[column] + statement.excluded[column]}
        connection.execute(statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=total), values)


def _decrease(connection: Connection, table: Table, counted: Counter[tuple[Any, ...]], column: str) -> None:
    """A count that retention has deleted already reappears below zero, and is deleted here."""
    _increase(connection, table, Counter({key: -number for key, number in counted.items()}), column)
    for keys in _batches(sorted(counted)):
        is_counted = tuple_(*table.primary_key).in_(_keys(connection, list(table.primary_key), keys))
        connection.execute(delete(table).where(is_counted, table.c[column] <= 0))


def _batches(rows: list[T]) -> Iterator[list[T]]:
    return (rows[start : start + ROWS_PER_STATEMENT] for start in range(0, len(rows), ROWS_PER_STATEMENT))


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
    return insert.from_select(columns, _unnested(columns, rows)), None


def _keys(connection: Connection, columns: Sequence[Column[Any]], rows: Sequence[tuple[Any, ...]]) -> Any:
    return _unnested(columns, rows) if connection.dialect.name == "postgresql" else rows


def _unnested(columns: Sequence[Column[Any]], rows: Sequence[tuple[Any, ...]]) -> Select[Any]:
    arrays = [literal(list(values), ARRAY(column.type)) for column, values in zip(columns, zip(*rows, strict=True), strict=True)]
    return select(*map(func.unnest, arrays))
