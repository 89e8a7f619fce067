"""What analytics has stored, in SQL: from what was counted with each event wherever an interval is whole, else from the events.

Each function is work for `Database.run`, and exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import (
    CTE,
    Column,
    ColumnElement,
    Connection,
    Select,
    Subquery,
    bindparam,
    exists,
    func,
    literal,
    select,
    union_all,
)

from app.analytics.reports.ranges import PART, Piece, Range, pieces
from app.core.timestamps import DAY, floor
from app.database.schema import UtcDateTime, events, people, rollups, users, visitors, visits


@dataclass(frozen=True)
class Interval:
    start: datetime
    events: int
    visitors: int


def one_moment(connection: Connection) -> None:
    """All that the transaction reads is of one moment, so that its numbers fit together. On SQLite that is so anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


def series(connection: Connection, asked: Range) -> list[Interval]:
    """Every interval of the range, the empty ones too."""
    happened, were_there = _events(connection, asked), _visitors(connection, asked)
    return [Interval(start, happened.get(start, 0), were_there.get(start, 0)) for start in asked.starts()]


def by_name(connection: Connection, asked: Range, most: int) -> dict[str, int]:
    return _frequent(connection, _counted(asked, DAY), "name", most)


def by_category(connection: Connection, asked: Range, most: int) -> dict[str, int]:
    return _frequent(connection, _counted(asked, DAY), "category", most)


def by_path(connection: Connection, asked: Range, most: int, name: str) -> dict[str, int]:
    """Of the events of that name."""
    counted = _counted(asked, DAY)
    return _frequent(connection, counted, "path", most, counted.c.name == name)


def funnel(connection: Connection, asked: Range, steps: Sequence[str], all_steps: Sequence[str]) -> list[int]:
    """How many people took the first step, how many of these later (or in the same moment) the second, and so on.

    `all_steps`, of all funnels, are what the index of the steps holds.
    """
    # SQLite finds a partial index only by its own condition. PostgreSQL concludes it, and would expect too few rows if told.
    index = [_is_in(events.c.name, all_steps)] if connection.dialect.name == "sqlite" else []
    reached: CTE | None = None
    counts = []
    for number, name in enumerate(steps):
        # Otherwise SQLite reads all events in the order of persons, which the grouping would like.
        taken = _taken(asked, name).where(*index).cte(f"taken_{number}").prefix_with("MATERIALIZED", dialect="sqlite")
        reached = _reached(taken, reached).cte(f"reached_{number}")
        counts.append(select(func.count()).select_from(reached).scalar_subquery())
    return list(connection.execute(select(*counts)).one())


def opted_out(connection: Connection) -> tuple[int, int]:
    """How many accounts have said no, and how many there are."""
    said_no = select(func.count()).select_from(people).where(people.c.user_id > 0, people.c.opted_out)  # > 0: by the index
    everybody = select(func.count()).select_from(users)
    opted_out, accounts = connection.execute(select(said_no.scalar_subquery(), everybody.scalar_subquery())).one()
    return opted_out, accounts


def has_events(connection: Connection) -> bool:
    return bool(connection.execute(select(exists(select(rollups.c.events)))).scalar())


def _events(connection: Connection, asked: Range) -> dict[datetime, int]:
    counted = _counted(asked, asked.interval)
    statement = select(counted.c.start, func.sum(counted.c.events)).group_by(counted.c.start)
    return {start: int(number) for start, number in connection.execute(statement)}


def _visitors(connection: Connection, asked: Range) -> dict[datetime, int]:
    """Those of a whole interval have been counted. Of a cut one, it is looked up who they are."""
    interval = asked.interval
    parts = pieces(asked.since, asked.until, interval)
    whole = select(visitors.c.start, visitors.c.visitors)
    found = {
        start: number
        for part in parts
        if part.grain == interval
        for start, number in connection.execute(whole.where(*_within(visitors, part)))
    }
    cut = groupby((part for part in parts if part.grain != interval), lambda part: floor(part.start, interval))
    for start, of_interval in cut:
        persons = union_all(*map(_persons, of_interval)).subquery()
        found[start] = connection.execute(select(func.count(persons.c.person.distinct()))).scalar_one()
    return found


def _frequent(
    connection: Connection, counted: Subquery, column: str, most: int, *conditions: ColumnElement[bool]
) -> dict[str, int]:
    """The most frequent first."""
    key, number = counted.c[column], func.sum(counted.c.events)
    statement = select(key, number).where(*conditions).group_by(key).order_by(number.desc(), key).limit(most)
    return {value: int(total) for value, total in connection.execute(statement)}


def _counted(asked: Range, grain: str) -> Subquery:
    """What happened in the range, by the interval of that grain in which it did."""
    parts = pieces(asked.since, asked.until, grain)
    return union_all(*(_single(part, grain) if part.grain == PART else _rolled_up(part, grain) for part in parts)).subquery()


def _rolled_up(part: Piece, grain: str) -> Select[Any]:
    start = rollups.c.start if part.grain == grain else _interval(part, grain)
    columns = start.label("start"), rollups.c.name, rollups.c.category, rollups.c.path, rollups.c.events
    return select(*columns).where(*_within(rollups, part))


def _single(part: Piece, grain: str) -> Select[Any]:
    columns = _interval(part, grain).label("start"), events.c.name, events.c.category, events.c.path, literal(1).label("events")
    return select(*columns).where(*_occurred(part.start, part.end))


def _persons(part: Piece) -> Select[Any]:
    if part.grain == PART:
        return select(events.c.person).where(*_occurred(part.start, part.end))
    return select(visits.c.person).where(*_within(visits, part))


def _taken(asked: Range, name: str) -> Select[Any]:
    """Who took a step, and when."""
    taken = select(events.c.person, events.c.occurred_at)
    return taken.where(_is_in(events.c.name, [name]), *_occurred(asked.since, asked.until))


def _is_in(column: Column[str], names: Sequence[str]) -> ColumnElement[bool]:
    """As literals: no partial index is found by parameters."""
    return column.in_(bindparam(None, list(names), expanding=True, literal_execute=True))


def _reached(taken: CTE, before: CTE | None) -> Select[Any]:
    """When they first took it; only of those who had taken the step before."""
    first = select(taken.c.person, func.min(taken.c.occurred_at).label("at")).select_from(taken).group_by(taken.c.person)
    if before is None:
        return first
    return first.join(before, (before.c.person == taken.c.person) & (before.c.at <= taken.c.occurred_at))


def _within(table: Any, part: Piece) -> tuple[ColumnElement[bool], ...]:
    return table.c.grain == part.grain, table.c.start >= part.start, table.c.start < part.end


def _occurred(since: datetime, until: datetime) -> tuple[ColumnElement[bool], ...]:
    return events.c.occurred_at >= since, events.c.occurred_at < until


def _interval(part: Piece, grain: str) -> ColumnElement[datetime]:
    """In which it lies as a whole."""
    return literal(floor(part.start, grain), UtcDateTime)
