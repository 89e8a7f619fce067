"""Factories of events, and helpers that read what is stored."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from app.analytics.events import Event
from app.analytics.person import AnalyticsAccount, ConsentState, HashedVisitor, Person
from app.analytics.store import AcceptedEvent, StoreResult
from app.auth import store as accounts
from app.database.engine import Database
from app.database.schema import events, rollups, visitors, visits

NOW = datetime.now(UTC).replace(microsecond=0)
LONG_AGO = NOW - timedelta(days=365)
VISITOR = HashedVisitor("v" + "0" * 31)

_numbers = itertools.count(1)


def event(name: str = "clicked", at: datetime = NOW, event_id: str | None = None, **properties: str | int) -> Event:
    return Event(event_id or f"event-{next(_numbers)}", name, "test", dict(properties), at)


def accepted(consent: ConsentState, *batch: Event) -> list[AcceptedEvent]:
    return [AcceptedEvent(consent.pseudonym, consent.version, one) for one in batch]


def new_account(database: Database, email: str = "ada@example.org") -> AnalyticsAccount:
    return AnalyticsAccount(database.run(accounts.add, email, "hash").id)


@pytest.fixture(params=["account", "visitor"])
def person(request: pytest.FixtureRequest, both: Database) -> Person:
    return new_account(both) if request.param == "account" else VISITOR


Stored = Callable[[], int]


@pytest.fixture
def stored(both: Database) -> Stored:
    """Return the number of stored events, after checking that the rollups have the same number."""

    def count() -> int:
        def read(connection: Connection) -> list[int]:
            raw = connection.execute(select(func.count()).select_from(events)).scalar_one()
            counted = connection.execute(select(func.sum(rollups.c.events)).group_by(rollups.c.grain)).scalars()
            return [raw, *(list(counted) or [0])]

        (number,) = set(both.run(read))
        return number

    return count


def counted_visitors(database: Database) -> dict[str, list[int]]:
    """Return the visitor counts by grain in order of time, after checking them against the visits."""

    def read(connection: Connection) -> tuple[Any, Any]:
        told = select(visitors.c.grain, visitors.c.start, visitors.c.visitors)
        seen = select(visits.c.grain, visits.c.start, func.count()).group_by(visits.c.grain, visits.c.start)
        return tuple(sorted(map(tuple, connection.execute(statement))) for statement in (told, seen))  # type: ignore[return-value]

    told, seen = database.run(read)
    assert told == seen
    found: dict[str, list[int]] = {}
    for grain, _, number in told:
        found.setdefault(grain, []).append(number)
    return found


def all_stored(outcome: StoreResult) -> int:
    assert (outcome.dropped, outcome.deferred) == (0, [])
    return outcome.stored
