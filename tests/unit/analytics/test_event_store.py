from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from app.analytics import store
from app.analytics.events import Event
from app.analytics.store import EventStore, purge_events
from app.core.messages import ANALYTICS_ROOM, Message
from app.database.engine import Database
from app.database.schema import events
from tests.unit.analytics.conftest import VISITOR, accepted, event

RETENTION_DAYS = 30

Published = list[Message]


@pytest.fixture
def published() -> Published:
    return []


@pytest.fixture
def event_store(both: Database, published: Published) -> EventStore:
    return EventStore(both, published.extend, RETENTION_DAYS)


def ago(**time: float) -> datetime:
    return datetime.now(UTC) - timedelta(**time)


def names(database: Database) -> list[str]:
    return sorted(database.run(lambda connection: connection.execute(select(events.c.name)).scalars().all()))


def store_all(event_store: EventStore, database: Database, *batch: Event) -> None:
    consent = database.run(store.consent, VISITOR)
    assert consent is not None
    assert event_store.store(accepted(consent, *batch), 5) == []


def test_number_of_stored_events_is_published(event_store: EventStore, both: Database, published: Published) -> None:
    store_all(event_store, both, event(), event(event_id="twice"), event(event_id="twice"))
    store_all(event_store, both, event(event_id="twice"))
    assert published == [Message(ANALYTICS_ROOM, "events_stored", {"count": 2})]


def test_event_older_than_the_retention_period_is_not_stored(event_store: EventStore, both: Database) -> None:
    store_all(event_store, both, event("old", ago(days=30, seconds=1)), event("new", ago(days=29)))
    assert names(both) == ["new"]


def test_purge_deletes_events_older_than_the_retention_period(
    event_store: EventStore, both: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PURGE_BATCH", 2)
    store_all(event_store, both, *(event("old", ago(days=10 + number)) for number in range(5)), event("new", ago(days=9)))
    purge_events(both, RETENTION_DAYS)
    assert len(names(both)) == 6
    purge_events(both, 10)
    assert names(both) == ["new"]
