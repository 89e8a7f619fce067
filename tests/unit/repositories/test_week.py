"""A user who follows forty repositories gets only news. Each is analysed daily for a week, by the real store and runner."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, update

from app.analysis import network
from app.core import config
from app.core.callbacks import do_nothing
from app.database.engine import Database
from app.database.schema import repositories as table
from app.jobs.failures import JobFailed
from app.notifications.service import Notifications
from app.repositories.analysis_process import AnalysisRequest
from app.repositories.jobs import AnalysisRunner
from app.repositories.service import Repositories
from harness.scale import count
from tests.unit.repositories.conftest import new_user
from tests.unit.repositories.test_notifications import report

REPOSITORIES, DAYS = 40, 7
UNCHANGED_DAYS = count(2, DAYS)

Behaviour = Callable[[int], dict[str, Any]]  # from a day to a report


def unchanged(day: int) -> dict[str, Any]:
    """Return the report of a repository in which nothing happens, except that its score moves a little."""
    return report(("1.0", -100), day=day, last_commit=-40 + day, activity=72 - day % 3)


def releases_on_day_3(day: int) -> dict[str, Any]:
    return report(*[("1.1", 3)] * (day >= 3), ("1.0", -100), day=day)


def tag_is_moved_daily(day: int) -> dict[str, Any]:
    return report(("1.1", day), ("1.0", -100), day=day) if day % 2 else report(("1.0", -100), day=day)


def flaps_around_a_band(day: int) -> dict[str, Any]:
    return report(day=day, overall=70 - day % 2)


def declines(day: int) -> dict[str, Any]:
    return report(day=day, community=69 - 3 * day)


def falls_silent(day: int) -> dict[str, Any]:
    return report(day=day, last_commit=-30)


def awakes(day: int) -> dict[str, Any]:
    return report(day=day, last_commit=-60 if day < 4 else 4)


def changes_its_licence(day: int) -> dict[str, Any]:
    return report(day=day) | {"license": "MIT" if day < 5 else "BUSL-1.1"}


def fails_daily(day: int) -> dict[str, Any]:
    if day:
        raise JobFailed("There is no public repository at this address.", permanent=True)
    return report()


def fails_once(day: int) -> dict[str, Any]:
    if day == 2:
        raise JobFailed("The server can't be reached or is not a web server.", permanent=True)
    return report(day=day)


NEWS: dict[Behaviour, list[tuple[int, str]]] = {
    releases_on_day_3: [(3, "release.found")],
    tag_is_moved_daily: [(1, "release.found")],
    flaps_around_a_band: [(1, "score.changed")],
    declines: [(4, "score.changed")],
    falls_silent: [(5, "repository.silent")],
    awakes: [(4, "repository.active")],
    changes_its_licence: [(5, "license.changed")],
    fails_daily: [(2, "analysis.failed")],
    fails_once: [],
}


class Week:
    def __init__(self, database: Database, settings: dict[str, str], behaviours: list[Behaviour]) -> None:
        self._database = database
        self._notifications = Notifications(database, do_nothing)
        self._behaviours = {f"https://example.org/owner/{number}": behaviour for number, behaviour in enumerate(behaviours)}
        self._sent: list[int] = []
        loaded = config.load(settings)
        self._runner = AnalysisRunner(loaded, database, self._notifications, lambda job, _: self._sent.append(job), self._analyse)
        self._repositories = Repositories(loaded, database, self._notifications, self._sent.append)
        self._day = 0
        self._user = new_user(database)

    def _analyse(self, request: AnalysisRequest, *_: Any) -> dict[str, Any]:
        return self._behaviours[request.url](self._day)

    def run(self, days: int = DAYS) -> list[tuple[int, str, str]]:
        """Return the day, the repository and the type of each notification after the first day, on which they are added."""
        for url in self._behaviours:
            self._repositories.add(self._user, url)
        self._work()
        first = self._notifications.after(self._user, 0)
        assert [one.type for one in first.items] == ["analysis.succeeded"] * len(self._behaviours)
        found = []
        for self._day in range(1, days + 1):
            head = self._notifications.inbox(self._user).head
            self._database.run(_make_due)
            self._runner.start_due()
            assert len(self._sent) == len(self._behaviours)
            self._work()
            news = self._notifications.after(self._user, head).items
            found += [(self._day, one.data["name"], one.type) for one in news]
        return found

    def _work(self) -> None:
        while self._sent:
            self._runner.run(self._sent.pop(0))


def _make_due(connection: Connection) -> None:
    connection.execute(update(table).values(due_at=datetime.now(UTC) - timedelta(seconds=1)))


@pytest.fixture(autouse=True)
def no_dns_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "refuse_private", lambda *_: None)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)


def test_forty_unchanged_repositories_cause_no_notification(database: Database, embedded: dict[str, str]) -> None:
    assert Week(database, embedded, [unchanged] * REPOSITORIES).run(UNCHANGED_DAYS) == []


def test_each_piece_of_news_is_one_notification(database: Database, embedded: dict[str, str]) -> None:
    expected = sorted((day, f"owner/{number}", type) for number, news in enumerate(NEWS.values()) for day, type in news)
    assert sorted(Week(database, embedded, list(NEWS)).run()) == expected
