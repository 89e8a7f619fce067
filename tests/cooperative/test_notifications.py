from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

from app.database.engine import Database
from app.notifications import store
from tests.unit.notifications.test_store import add, new_user


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url.replace("postgresql:", "postgresql+psycopg2:"), 10, "test")
    yield database
    database.close()


def add_many(database: Database, user_ids: tuple[int, ...]) -> None:
    for _ in range(20):
        add(database, *user_ids)


def test_concurrent_notifications_become_visible_in_order(database: Database) -> None:
    """A reader sees 1 .. n during concurrent writes, never n without n - 1."""
    ada, bob = new_user(database), new_user(database, "bob@example.org")
    writers = [gevent.spawn(add_many, database, order) for order in ((ada, bob), (bob, ada))]
    while not all(writer.ready() for writer in writers):
        seen = [item.seq for item in database.run(store.after, ada, 0, 100)]
        assert seen == list(range(1, len(seen) + 1))
    for user in (ada, bob):
        assert [item.seq for item in database.run(store.after, user, 0, 100)] == list(range(1, 41))
