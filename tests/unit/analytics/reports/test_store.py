"""Compares every number with a plain count of the events."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert, text
from sqlalchemy import event as sqlalchemy_event

from app.analytics.catalogue import FUNNELS, PAGE_VIEWED
from app.analytics.reports import store
from app.analytics.reports.ranges import PARTIAL_HOUR, TimeRange, split_range
from app.analytics.reports.store import IntervalCount
from app.analytics.rollups import CountedEvent
from app.auth import store as accounts
from app.core.timestamps import DAY, HOUR, floor
from app.database.engine import Database
from app.database.schema import people
from harness.recorded import BUSY_SECONDS, event, random_events, record

FIRST, LAST = datetime(2025, 10, 1, tzinfo=UTC), datetime(2025, 10, 6, tzinfo=UTC)
ALL_STEPS = [step for steps in FUNNELS.values() for step in steps]
MANY = 1000


def at(moment: str) -> datetime:
    return datetime.fromisoformat(moment).replace(tzinfo=UTC)


def random_ranges(count: int) -> list[TimeRange]:
    """Some start or end with an hour or a day, others at any millisecond."""
    chance = random.Random(count)  # noqa: S311
    hours = int((LAST - FIRST) / timedelta(hours=1))

    def moment() -> datetime:
        near = FIRST + timedelta(hours=chance.randrange(-2, hours + 2))
        aligned = floor(near, chance.choice([HOUR, DAY]))
        return aligned if chance.random() < 0.4 else near + timedelta(milliseconds=chance.randrange(3_600_000))

    pairs = [sorted([moment(), moment()]) for _ in range(count)]
    return [TimeRange(since, until, chance.choice([HOUR, DAY])) for since, until in pairs if since < until]


def within(recorded: Iterable[CountedEvent], asked: TimeRange) -> list[CountedEvent]:
    return [counted for counted in recorded if asked.since <= counted.occurred_at < asked.until]


def plainly(recorded: Iterable[CountedEvent], asked: TimeRange) -> list[IntervalCount]:
    inside = within(recorded, asked)
    happened = Counter(floor(counted.occurred_at, asked.interval) for counted in inside)
    were_there = Counter(
        start for start, _ in {(floor(counted.occurred_at, asked.interval), counted.person) for counted in inside}
    )
    return [IntervalCount(start, happened[start], were_there[start]) for start in asked.starts()]


def plain_funnel(recorded: Iterable[CountedEvent], steps: Iterable[str]) -> list[int]:
    in_order = sorted(recorded, key=lambda counted: counted.occurred_at)
    reached: dict[str, datetime] | None = None
    counts = []
    for step in steps:
        taken: dict[str, datetime] = {}
        for counted in in_order:
            before = counted.occurred_at if reached is None else reached.get(counted.person)
            if counted.name == step and before is not None and before <= counted.occurred_at:
                taken.setdefault(counted.person, counted.occurred_at)
        counts.append(len(taken))
        reached = taken
    return counts


def test_all_numbers_equal_a_plain_count(both: Database) -> None:
    recorded = random_events(1500, FIRST, LAST)
    record(both, *recorded)
    for asked in random_ranges(60):
        inside = within(recorded, asked)
        assert both.run(store.series, asked) == plainly(recorded, asked), asked
        assert both.run(store.by_name, asked, MANY) == Counter(counted.name for counted in inside), asked
        assert both.run(store.by_category, asked, MANY) == Counter(counted.category for counted in inside), asked
        viewed = Counter(counted.path for counted in inside if counted.name == PAGE_VIEWED)
        assert both.run(store.by_path, asked, MANY, PAGE_VIEWED) == viewed, asked
        for steps in FUNNELS.values():
            assert both.run(store.funnel, asked, steps, ALL_STEPS) == plain_funnel(inside, steps), asked


def test_comparison_detects_missing_parts(both: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = random_events(500, FIRST, LAST)
    record(both, *recorded)
    monkeypatch.setattr(store, "split_range", lambda *asked: [part for part in split_range(*asked) if part.grain != PARTIAL_HOUR])
    assert [asked for asked in random_ranges(20) if both.run(store.series, asked) != plainly(recorded, asked)]


def test_ranges_are_exact_to_the_millisecond(both: Database) -> None:
    moment = at("2025-10-03T20:00:00.123")
    record(both, event("clicked", moment))
    millisecond = timedelta(milliseconds=1)
    for since, until, expected in (
        (moment, moment + millisecond, 1),
        (moment - millisecond, moment, 0),
        (moment + millisecond, moment + 2 * millisecond, 0),
    ):
        assert both.run(store.series, TimeRange(since, until, HOUR)) == [
            IntervalCount(at("2025-10-03T20:00"), expected, expected)
        ]


def test_funnel_respects_the_order_of_steps(both: Database) -> None:
    noon = at("2025-10-03T12:00")
    minute = timedelta(minutes=1)
    record(
        both,
        event("sign_up_opened", noon, "in order"),
        event("signed_up", noon + minute, "in order"),
        event("signed_up", noon, "the other way round"),
        event("sign_up_opened", noon + minute, "the other way round"),
        event("sign_up_opened", noon, "at once"),
        event("signed_up", noon, "at once"),
        event("signed_up", noon, "from nowhere"),
        event("sign_up_opened", noon - minute, "too early"),
        event("signed_up", noon, "too early"),
    )
    asked = TimeRange(noon, noon + 2 * minute, HOUR)
    assert both.run(store.funnel, asked, ("sign_up_opened", "signed_up"), ALL_STEPS) == [3, 2]


def test_most_frequent_names_come_first(both: Database) -> None:
    noon = at("2025-10-03T12:00")
    record(both, *[event(f"name {number}", noon, str(turn)) for number in range(5) for turn in range(number + 1)])
    found = both.run(store.by_name, TimeRange(noon, noon + timedelta(hours=1), HOUR), 2)
    assert list(found.items()) == [("name 4", 5), ("name 3", 4)]


def test_opted_out_accounts_are_counted(both: Database) -> None:
    ids = [both.run(accounts.add, f"{name}@example.org", "").id for name in ("ada", "bob", "eve")]
    rows: list[dict[str, Any]] = [
        {"pseudonym": "a", "user_id": ids[0], "opted_out": True, "version": 1, "created_at": FIRST},
        {"pseudonym": "b", "user_id": ids[1], "opted_out": False, "version": 0, "created_at": FIRST},
        {"pseudonym": "visitor", "user_id": None, "opted_out": True, "version": 1, "created_at": FIRST},
    ]
    both.run(lambda connection: connection.execute(insert(people), rows))
    assert both.run(store.count_opted_out) == (1, 3)


def test_has_events_is_true_after_the_first_event(both: Database) -> None:
    assert not both.run(store.has_events)
    record(both, event("clicked", FIRST))
    assert both.run(store.has_events)


def test_funnels_use_their_index(both: Database) -> None:
    record(both, *random_events(2000, FIRST, LAST))
    asked = TimeRange(FIRST + timedelta(hours=1), LAST, DAY)
    statements = statements_of(both, lambda: both.run(store.funnel, asked, FUNNELS["Analysis"], ALL_STEPS))
    plan = plan_of(both, *statements[-1])
    assert plan.count("ix_analytics_events_steps") >= len(FUNNELS["Analysis"]), plan


@pytest.mark.parametrize("interval", [DAY, HOUR])
def test_whole_intervals_are_read_from_rollups(both: Database, interval: str) -> None:
    record(both, event("clicked", FIRST))

    def read(asked: TimeRange) -> str:
        def work(connection: Connection) -> None:
            store.series(connection, asked)
            store.by_name(connection, asked, MANY)
            store.by_category(connection, asked, MANY)
            store.by_path(connection, asked, MANY, PAGE_VIEWED)

        return " ".join(statement for statement, _ in statements_of(both, lambda: both.run(work)))

    assert "analytics_events" not in read(TimeRange(FIRST, LAST, interval))
    assert "analytics_events" in read(TimeRange(FIRST, LAST - timedelta(milliseconds=1), interval))


def statements_of(database: Database, work: Any) -> list[tuple[str, Any]]:
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    sqlalchemy_event.listen(database.engine, "before_cursor_execute", note)
    work()
    sqlalchemy_event.remove(database.engine, "before_cursor_execute", note)
    return seen


def plan_of(database: Database, statement: str, parameters: Any) -> str:
    def explain(connection: Any) -> str:
        if connection.dialect.name == "postgresql":
            connection.execute(text("ANALYZE analytics_events"))
            connection.execute(text("SET LOCAL enable_seqscan = off"))  # the table is small
            connection.execute(text("SET LOCAL enable_bitmapscan = off"))
        words = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        return "\n".join(str(row) for row in connection.exec_driver_sql(f"{words} {statement}", parameters))

    return database.run_within(BUSY_SECONDS, explain)
