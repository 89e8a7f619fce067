from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, insert

from app.database.engine import Database
from app.database.schema import events, people, users
from app.operations.rehearsal import store

FENCED_AT = datetime(2026, 11, 26, 20, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
ADA, BOB = 1, 2


def add_people(connection: Connection) -> None:
    """Ada has opted out, Bob has opted in again."""
    common = {"password_hash": "", "password_version": 1, "is_admin": False, "created_at": FENCED_AT}
    connection.execute(insert(users), [{"id": number, "email": f"{number}@example.org", **common} for number in (ADA, BOB)])
    states = [("a1", ADA, True), ("a2", BOB, False)]
    rows = [
        {"pseudonym": name, "user_id": user, "opted_out": opted_out, "fenced_at": FENCED_AT} for name, user, opted_out in states
    ]
    connection.execute(insert(people), [{"version": 1, "created_at": FENCED_AT, **row} for row in rows])


def add(connection: Connection, person: str, event_id: str, at: datetime, name: str = "rehearsal") -> None:
    values = {"person": person, "event_id": event_id, "name": name, "category": "c", "path": "", "properties": {}}
    connection.execute(insert(events).values(occurred_at=at, **values))


@pytest.fixture
def database(both: Database) -> Database:
    both.run(add_people)
    return both


def test_events_of_a_user_are_found_by_pseudonym(database: Database) -> None:
    database.run(add, "a1", "x", FENCED_AT)
    database.run(add, "a1", "y", FENCED_AT + MILLISECOND, "clicked")
    database.run(add, "a2", "z", FENCED_AT)
    assert database.run(store.of_user, ADA) == {"x": FENCED_AT, "y": FENCED_AT + MILLISECOND}
    assert database.run(store.of_user, 7) == {}


def test_rows_of_an_event_are_counted_under_all_pseudonyms(database: Database) -> None:
    for person, event_id, name in [
        ("a1", "x", "rehearsal"),
        ("a2", "x", "rehearsal"),
        ("a2", "y", "rehearsal"),
        ("a2", "z", "b"),
    ]:
        database.run(add, person, event_id, FENCED_AT, name)
    database.run(add, "a1", "old", FENCED_AT - MILLISECOND)
    assert database.run(store.row_counts, "rehearsal", FENCED_AT) == {"x": 2, "y": 1}


def test_beyond_fences_finds_events_after_the_opt_out_of_opted_out_users(database: Database) -> None:
    for person in ("a1", "a2"):
        database.run(add, person, f"before {person}", FENCED_AT)
        database.run(add, person, f"after {person}", FENCED_AT + MILLISECOND, "clicked")
    assert database.run(store.beyond_fences, [ADA, BOB]) == {"after a1"}
    assert database.run(store.beyond_fences, [BOB]) == set()
