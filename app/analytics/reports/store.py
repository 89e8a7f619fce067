"""SQL queries of reports. Whole hours and days are read from rollups, partial hours from the events, so all numbers are exact."""

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

from app.analytics.reports.ranges import PARTIAL_HOUR, RangePart, TimeRange, split_range
from app.core.timestamps import DAY, floor
from app.database.schema import UtcDateTime, events, people, rollups, users, visitors, visits


@dataclass(frozen=True)
class IntervalCount:
    start: datetime
    events: int
    visitors: int


def read_snapshot(connection: Connection) -> None:
    """Let all queries of the transaction read one snapshot. SQLite does so anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


def series(connection: Connection, time_range: TimeRange) -> list[IntervalCount]:
    """Return every interval of the range, including empty ones."""
    event_counts, visitor_counts = _count_events(connection, time_range), _count_visitors(connection, time_range)
    return [IntervalCount(start, event_counts.get(start, 0), visitor_counts.get(start, 0)) for start in time_range.starts()]


def by_name(connection: Connection, time_range: TimeRange, limit: int) -> dict[str, int]:
    return _most_frequent(connection, _counts(time_range, DAY), "name", limit)


def by_category(connection: Connection, time_range: TimeRange, limit: int) -> dict[str, int]:
    return _most_frequent(connection, _counts(time_range, DAY), "category", limit)


def by_path(connection: Connection, time_range: TimeRange, limit: int, name: str) -> dict[str, int]:
    """Count the events of that name by path."""
    counts = _counts(time_range, DAY)
    return _most_frequent(connection, counts, "path", limit, counts.c.name == name)


def funnel(connection: Connection, time_range: TimeRange, steps: Sequence[str], all_steps: Sequence[str]) -> list[int]:
    """Count the people who took the first step, those of them who took the second later or at the same time, and so on.

    `all_steps` are the steps of all funnels: the condition of the partial index.
    """
    # SQLite uses a partial index only if the query repeats its condition.
    # PostgreSQL infers it; repeating it misleads its planner.
    index = [_is_in(events.c.name, all_steps)] if connection.dialect.name == "sqlite" else []
    reached: CTE | None = None
    counts = []
    for number, name in enumerate(steps):
        # Not materialized, SQLite would read all events in the order of persons, which suits the grouping.
        taken = _taken(time_range, name).where(*index).cte(f"taken_{number}").prefix_with("MATERIALIZED", dialect="sqlite")
        reached = _reached(taken, reached).cte(f"reached_{number}")
        counts.append(select(func.count()).select_from(reached).scalar_subquery())
    return list(connection.execute(select(*counts)).one())


def count_opted_out(connection: Connection) -> tuple[int, int]:
    """Return the number of accounts that opted out, and of all accounts."""
    opted_out = select(func.count()).select_from(people).where(people.c.user_id > 0, people.c.opted_out)  # > 0 uses the index
    accounts = select(func.count()).select_from(users)
    row = connection.execute(select(opted_out.scalar_subquery(), accounts.scalar_subquery())).one()
    return row[0], row[1]


def has_events(connection: Connection) -> bool:
    return bool(connection.execute(select(exists(select(rollups.c.events)))).scalar())


def _count_events(connection: Connection, time_range: TimeRange) -> dict[datetime, int]:
    counts = _counts(time_range, time_range.interval)
    statement = select(counts.c.start, func.sum(counts.c.events)).group_by(counts.c.start)
    return {start: int(number) for start, number in connection.execute(statement)}


def _count_visitors(connection: Connection, time_range: TimeRange) -> dict[datetime, int]:
    """Read the counts of whole intervals; in partial intervals, count the distinct persons."""
    interval = time_range.interval
    parts = split_range(time_range.since, time_range.until, interval)
    whole = select(visitors.c.start, visitors.c.visitors)
    found = {
        start: number
        for part in parts
        if part.grain == interval
        for start, number in connection.execute(whole.where(*_is_within(visitors, part)))
    }
    partial = groupby((part for part in parts if part.grain != interval), lambda part: floor(part.start, interval))
    for start, parts_of_interval in partial:
        persons = union_all(*map(_persons, parts_of_interval)).subquery()
        found[start] = connection.execute(select(func.count(persons.c.person.distinct()))).scalar_one()
    return found


def _most_frequent(
    connection: Connection, counts: Subquery, column: str, limit: int, *conditions: ColumnElement[bool]
) -> dict[str, int]:
    key, number = counts.c[column], func.sum(counts.c.events)
    statement = select(key, number).where(*conditions).group_by(key).order_by(number.desc(), key).limit(limit)
    return {value: int(total) for value, total in connection.execute(statement)}


def _counts(time_range: TimeRange, grain: str) -> Subquery:
    """Select the events of the range, counted by intervals of the grain."""
    parts = split_range(time_range.since, time_range.until, grain)
    return union_all(
        *(_from_events(part, grain) if part.grain == PARTIAL_HOUR else _from_rollups(part, grain) for part in parts)
    ).subquery()


def _from_rollups(part: RangePart, grain: str) -> Select[Any]:
    start = rollups.c.start if part.grain == grain else _interval_of(part, grain)
    columns = start.label("start"), rollups.c.name, rollups.c.category, rollups.c.path, rollups.c.events
    return select(*columns).where(*_is_within(rollups, part))


def _from_events(part: RangePart, grain: str) -> Select[Any]:
    start, one = _interval_of(part, grain).label("start"), literal(1).label("events")
    columns = start, events.c.name, events.c.category, events.c.path, one
    return select(*columns).where(*_occurred(part.start, part.end))


def _persons(part: RangePart) -> Select[Any]:
    if part.grain == PARTIAL_HOUR:
        return select(events.c.person).where(*_occurred(part.start, part.end))
    return select(visits.c.person).where(*_is_within(visits, part))


def _taken(time_range: TimeRange, name: str) -> Select[Any]:
    """Select who took a step, and when."""
    taken = select(events.c.person, events.c.occurred_at)
    return taken.where(_is_in(events.c.name, [name]), *_occurred(time_range.since, time_range.until))


def _is_in(column: Column[str], names: Sequence[str]) -> ColumnElement[bool]:
    """Use literals: databases do not find a partial index by parameters."""
    return column.in_(bindparam(None, list(names), expanding=True, literal_execute=True))


def _reached(taken: CTE, previous: CTE | None) -> Select[Any]:
    """Select when each person first took the step, after the previous step if there is one."""
    first = select(taken.c.person, func.min(taken.c.occurred_at).label("at")).select_from(taken).group_by(taken.c.person)
    if previous is None:
        return first
    return first.join(previous, (previous.c.person == taken.c.person) & (previous.c.at <= taken.c.occurred_at))


def _is_within(table: Any, part: RangePart) -> tuple[ColumnElement[bool], ...]:
    return table.c.grain == part.grain, table.c.start >= part.start, table.c.start < part.end


def _occurred(since: datetime, until: datetime) -> tuple[ColumnElement[bool], ...]:
    return events.c.occurred_at >= since, events.c.occurred_at < until


def _interval_of(part: RangePart, grain: str) -> ColumnElement[datetime]:
    """The start of the interval that contains the whole part."""
    return literal(floor(part.start, grain), UtcDateTime)
