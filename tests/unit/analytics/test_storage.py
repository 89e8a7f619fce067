from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from app.analytics import storage, store
from app.analytics.events import Event
from app.analytics.storage import Retention, Storage
from app.core import config
from app.core.config import Config
from app.core.messages import ANALYTICS_ROOM, Message
from app.database.engine import Database
from app.database.schema import events
from harness.servers import embedded_environment
from tests.unit.analytics.conftest import PASSER, accepted, event


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    return dataclasses.replace(config.load(embedded_environment(tmp_path)), analytics_retention_days=30)


Published = list[Message]


@pytest.fixture
def published() -> Published:
    return []


@pytest.fixture
def place(settings: Config, both: Database, published: Published) -> Storage:
    return Storage(settings, both, published.extend)


def ago(**time: float) -> datetime:
    return datetime.now(UTC) - timedelta(**time)


def names(database: Database) -> list[str]:
    return sorted(database.run(lambda connection: connection.execute(select(events.c.name)).scalars().all()))


def keep(place: Storage, database: Database, *batch: Event) -> None:
    standing = database.run(store.standing, PASSER)
    assert standing is not None
    assert place.store(accepted(standing, *batch), 5) == []


def test_what_is_stored_is_told_to_all(place: Storage, both: Database, published: Published) -> None:
    keep(place, both, event(), event(event_id="twice"), event(event_id="twice"))
    keep(place, both, event(event_id="twice"))
    assert published == [Message(ANALYTICS_ROOM, "events_stored", {"count": 2})]


def test_what_has_become_too_old_on_its_way_is_not_stored(place: Storage, both: Database) -> None:
    keep(place, both, event("old", ago(days=30, seconds=1)), event("new", ago(days=29)))
    assert names(both) == ["new"]


def test_events_are_kept_for_so_many_days(
    place: Storage, both: Database, settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PURGE_BATCH", 2)
    keep(place, both, *(event("old", ago(days=10 + number)) for number in range(5)), event("new", ago(days=9)))
    Retention(settings, both).purge()
    assert len(names(both)) == 6
    Retention(dataclasses.replace(settings, analytics_retention_days=10), both).purge()
    assert names(both) == ["new"]
