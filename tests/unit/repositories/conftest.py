"""Users, repositories and reports for tests with both databases."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from app.auth import store as accounts
from app.core.messages import Message, user_room
from app.database.engine import Database
from app.database.schema import analyses
from app.jobs.leases import NotYet
from app.notifications.service import Notifications
from app.repositories import store
from app.repositories.store import Analysis, AnalysisLease, Repository

SCORES = ("activity", "community", "continuity", "releases", "documentation", "engineering", "overall")
URL = "https://example.org/pallets/flask"


class Published(list[tuple[str, dict[str, Any]]]):
    """The messages that were published to sockets."""

    def add(self, messages: Sequence[Message]) -> None:
        assert all(message.room == user_room(message.data["user_id"]) for message in messages)
        self.extend((message.kind, message.data) for message in messages)

    def statuses(self) -> list[str]:
        return [message["analysis"]["status"] for kind, message in self if kind == "analysis"]

    def pushed(self) -> list[str]:
        return [message["item"]["type"] for kind, message in self if kind == "notification"]


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def notifications(both: Database, published: Published) -> Notifications:
    return Notifications(both, published.add)


def new_user(database: Database, email: str = "ada@example.org") -> int:
    return database.run(accounts.add, email, "hash").id


def new_repository(database: Database, *followers: int, url: str = URL) -> Repository:
    repository = database.run(store.add_repository, url, url.rpartition("/")[2])
    for user_id in followers:
        database.run(store.follow, user_id, repository.id)
    return repository


def started(database: Database, repository: Repository) -> Analysis:
    return database.run(store.start_analysis, repository.id)[0]


def claimed(database: Database, analysis: Analysis, holder: str = "mine") -> AnalysisLease:
    lease = database.run(store.claim, analysis.id, holder)
    assert isinstance(lease, AnalysisLease), lease
    return lease


def not_yet(database: Database, analysis: Analysis) -> NotYet:
    found = database.run(store.claim, analysis.id, "late")
    assert isinstance(found, NotYet), found
    return found


def let_time_pass(database: Database, analysis: Analysis, passed: timedelta, *names: str) -> None:
    """Move some columns of the row of an analysis into the past."""
    row = analyses.c.id == analysis.id

    def move(connection: Connection) -> None:
        timestamps = connection.execute(select(*(analyses.c[name] for name in names)).where(row)).one()
        earlier = {name: timestamp - passed for name, timestamp in zip(names, timestamps, strict=True)}
        connection.execute(update(analyses).where(row).values(earlier))

    database.run(move)


def report(release: str | None = None, released_at: str | None = None, **scores: int | None) -> dict[str, Any]:
    results = {name: {"score": scores.get(name, 50), "evidence": ["Example."]} for name in SCORES}
    return {
        "as_of": "2026-01-02T03:04:05Z",
        "commits": 1,
        "releases": {"count": int(release is not None), "latest": release, "latest_at": released_at},
        "scores": results,
    }
