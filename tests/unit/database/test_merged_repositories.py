"""The migration that makes one row of the rows of one repository."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, Table, insert, select

from app.database.engine import Database
from app.database.schema import analyses, analysis_requests, follows, notifications, repositories, users
from app.database.upgrade import upgrade

NOW = datetime(2025, 10, 3, 20, 0, tzinfo=UTC)
FLASK = "https://github.com/pallets/flask"
LIVE: dict[str, Any] = {"dispatched_at": NOW, "requested_at": NOW}
DONE: dict[str, Any] = {**LIVE, "status": "succeeded", "finished_at": NOW}


@pytest.fixture
def before(empty: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database before the migration."""
    with monkeypatch.context() as patched:
        original = command.upgrade
        patched.setattr(command, "upgrade", lambda configuration, _: original(configuration, "0010"))
        upgrade(empty)
    return empty


def add(database: Database, table: Table, *rows: dict[str, Any]) -> None:
    database.run(lambda connection: connection.execute(insert(table), list(rows)))


def rows(database: Database, *columns: Any) -> list[tuple[Any, ...]]:
    def read(connection: Connection) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(*columns[:2]))]

    return database.run(read)


def add_users(database: Database, *ids: int) -> None:
    add(database, users, *({"id": id, "email": f"{id}@example.org", "password_hash": "", "created_at": NOW} for id in ids))


def add_repositories(database: Database, urls: dict[int, str]) -> None:
    values: dict[str, Any] = {"name": "x", "created_at": NOW, "due_at": NOW}
    add(database, repositories, *({"id": id, "url": url, **values} for id, url in urls.items()))


def test_rows_of_one_repository_are_merged(before: Database) -> None:
    add_users(before, 1, 2, 3)
    add_repositories(
        before, {1: f"{FLASK}.git", 2: FLASK, 3: "https://github.com/Pallets/Flask", 4: "/srv/it", 5: "https://example.org/A.git"}
    )
    followed = [(1, 1, "first"), (1, 2, None), (2, 1, "lost"), (2, 2, "second"), (3, 3, None), (3, 4, None)]
    names = ("user_id", "repository_id", "share_key")
    add(before, follows, *({**dict(zip(names, row, strict=True)), "created_at": NOW} for row in followed))
    for row in [
        {"id": 1, "repository_id": 1, **DONE},
        {"id": 2, "repository_id": 2, **DONE},
        {"id": 3, "repository_id": 1, **LIVE, "status": "running", "lease": "x", "leased_until": NOW, "requested_by": 1},
        {"id": 4, "repository_id": 2, **LIVE, "status": "queued"},
        {"id": 5, "repository_id": 3, **DONE},
        {"id": 6, "repository_id": 4, **LIVE, "status": "queued"},
    ]:
        add(before, analyses, row)
    add(before, analysis_requests, *({"analysis_id": a, "user_id": u} for a, u in [(3, 1), (3, 2), (4, 2), (6, 3)]))
    told = {"type": "analysis_failed", "title": "x", "created_at": NOW}
    add(
        before,
        notifications,
        {"user_id": 1, "seq": 1, **told, "data": {"repository_id": 1, "name": "x"}},
        {"user_id": 3, "seq": 1, **told, "data": {"repository_id": 4}},
        {"user_id": 3, "seq": 2, **told, "data": {}},
    )
    upgrade(before)
    assert rows(before, repositories.c.id, repositories.c.url, repositories.c.name) == [
        (2, FLASK, "pallets/flask"),
        (4, "/srv/it", "x"),
        (5, "https://example.org/A.git", "x"),
    ]
    assert rows(before, follows.c.user_id, follows.c.repository_id, follows.c.share_key) == [
        (1, 2, "first"),
        (2, 2, "second"),
        (3, 2, None),
        (3, 4, None),
    ]
    assert rows(before, analyses.c.id, analyses.c.repository_id, analyses.c.status, analyses.c.lease) == [
        (1, 2, "succeeded", None),
        (2, 2, "succeeded", None),
        (3, 2, "cancelled", None),
        (4, 2, "queued", None),
        (5, 2, "succeeded", None),
        (6, 4, "queued", None),
    ]
    assert rows(before, analysis_requests.c.analysis_id, analysis_requests.c.user_id) == [(4, 1), (4, 2), (6, 3)]
    assert rows(before, notifications.c.user_id, notifications.c.seq, notifications.c.data) == [
        (1, 1, {"repository_id": 2, "name": "x"}),
        (3, 1, {"repository_id": 4}),
        (3, 2, {}),
    ]


def test_oldest_row_is_kept_if_none_has_the_address(before: Database) -> None:
    add_repositories(before, {1: f"{FLASK}.git", 2: f"{FLASK}/tree/main"})
    add(before, analyses, {"id": 1, "repository_id": 2, **LIVE, "status": "queued"})
    upgrade(before)
    assert rows(before, repositories.c.id, repositories.c.url) == [(1, FLASK)]
    assert rows(before, analyses.c.id, analyses.c.repository_id, analyses.c.status) == [(1, 1, "queued")]
