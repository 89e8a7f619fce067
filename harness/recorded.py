"""Analytics events for tests, stored and counted in one transaction, as in the application."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

from sqlalchemy import Connection, insert

from app.analytics import rollups
from app.analytics.catalogue import BY_NAME, DECLARED_EVENTS, PAGE_LEFT, PAGE_VIEWED
from app.analytics.rollups import CountedEvent
from app.database.engine import Database
from app.database.schema import events

BUSY_SECONDS = 60  # for many events on a busy machine

_numbers = itertools.count(1)


def event(name: str, occurred_at: datetime, person: str = "ada", path: str = "") -> CountedEvent:
    category = BY_NAME[name].category if name in BY_NAME else "other"
    return CountedEvent(person, name, category, path, occurred_at)


def record(database: Database, *recorded: CountedEvent) -> None:
    database.run_within(BUSY_SECONDS, _record, recorded)


def random_events(count: int, since: datetime, until: datetime, people: int = 40) -> list[CountedEvent]:
    """Return reproducible events with times in milliseconds, some of them exactly at the start of an hour or a day."""
    chance = random.Random(count)  # noqa: S311
    span = int((until - since) / timedelta(milliseconds=1))
    return [_random_event(chance, since + timedelta(milliseconds=chance.randrange(span)), people) for _ in range(count)]


def _random_event(chance: random.Random, moment: datetime, people: int) -> CountedEvent:
    if chance.random() < 0.1:
        moment = moment.replace(minute=0, second=0, microsecond=0)
    if chance.random() < 0.05:
        moment = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    name = chance.choice(DECLARED_EVENTS).name
    path = chance.choice(["/", "/settings", "/repositories/:id"]) if name in (PAGE_VIEWED, PAGE_LEFT) else ""
    return event(name, moment, f"person-{chance.randrange(people)}", path)


def _record(connection: Connection, recorded: Sequence[CountedEvent]) -> None:
    rows = [asdict(counted) | {"event_id": f"event-{next(_numbers)}", "properties": {}} for counted in recorded]
    connection.execute(insert(events), rows)
    rollups.add(connection, recorded)
