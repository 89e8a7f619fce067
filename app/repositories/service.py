"""Repositories: what a user follows, and how they are analysed anew. What a user does not follow does not exist for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from app.analysis import address, network
from app.analysis.address import AddressRefused
from app.core.config import Config
from app.core.errors import Conflict, Invalid, NotFound, TooMany
from app.database import clock
from app.database.engine import Database
from app.jobs.leases import SUCCEEDED
from app.notifications.service import Notifications
from app.repositories import store
from app.repositories.store import Analysis, Entry, Past, Repository

__all__ = ["Analysis", "Entry", "Past", "Repositories", "Repository"]

MAX_FOLLOWED = 200  # repositories of one user
MAX_COMPARED = 4
MAX_LIVE = 50  # analyses of one user's repositories that are not over
RETRY_AFTER_SECONDS = 30
FRESH = timedelta(seconds=60)  # a report that young is what somebody who adds the repository wants

Dispatch = Callable[[int], None]  # analysis; raises nothing: what gets lost is sent again


@dataclass(frozen=True)
class Reported:
    """An analysis, with its report if it succeeded."""

    analysis: Analysis
    report: dict[str, Any] | None


class Repositories:
    def __init__(self, config: Config, database: Database, notifications: Notifications, dispatch: Dispatch) -> None:
        self._roots = config.repository_roots
        self._allowed_networks = config.repository_allowed_networks
        self._database = database
        self._notifications = notifications
        self._dispatch = dispatch

    def add(self, user_id: int, url: str) -> tuple[Repository, Analysis]:
        """Follows it, and analyses it unless that has just been done. Raises Invalid for what may not be fetched."""
        try:
            where = address.parse(url, self._roots)
            network.refuse_private(where, self._allowed_networks)
        except AddressRefused as refused:
            raise Invalid.field("url", str(refused)) from None
        repository, analysis, new = self._database.run(_add, user_id, where.url, where.name)
        if new:
            self._dispatch(analysis.id)
        return repository, analysis

    def list(self, user_id: int) -> list[Entry]:
        """The last one that was added first."""
        return self._database.run(store.entries, user_id)

    def get(self, user_id: int, repository_id: int) -> Entry:
        """With its report and its history."""
        return self._database.run(_with_report_and_history, user_id, repository_id)

    def compare(self, user_id: int, repository_ids: Sequence[int]) -> Sequence[Entry]:
        """With their reports, in the order of the ids."""
        if len(repository_ids) > MAX_COMPARED:
            raise Invalid.field("ids", f"At most {MAX_COMPARED} repositories can be compared.")
        return self._database.run(_with_reports, user_id, repository_ids)

    def require_followed(self, user_id: int, repository_id: int) -> None:
        if not self._database.run(store.is_followed, user_id, repository_id):
            raise _unknown_repository()

    def unfollow(self, user_id: int, repository_id: int) -> None:
        """If nobody else follows it, its analysis is cancelled, and it is deleted within a day."""
        if cancelled := self._database.run(_unfollow, user_id, repository_id):
            self._notifications.publish_analysis([user_id], cancelled.state)

    def analyse(self, user_id: int, repository_id: int) -> Analysis:
        """Anew; or the analysis that is under way."""
        analysis, new = self._database.run(_analyse, user_id, repository_id)
        if new:
            self._dispatch(analysis.id)
        return analysis

    def analysis(self, user_id: int, analysis_id: int) -> Reported:
        return self._database.run(_reported, user_id, analysis_id)

    def cancel(self, user_id: int, analysis_id: int) -> Analysis:
        """Raises Conflict if it has ended, or if others follow the repository too."""
        cancelled = self._database.run(_cancel, user_id, analysis_id)
        self._notifications.publish_analysis([user_id], cancelled.state)
        return cancelled


def _add(connection: Connection, user_id: int, url: str, name: str) -> tuple[Repository, Analysis, bool]:
    repository = store.add(connection, url, name)
    if not store.is_followed(connection, user_id, repository.id):
        if store.count_followed(connection, user_id) >= MAX_FOLLOWED:
            raise Invalid.field("url", f"You follow {MAX_FOLLOWED} repositories, which is as many as one can.")
        store.follow(connection, user_id, repository.id)
    latest = store.latest(connection, repository.id)
    if latest and _is_fresh(connection, latest):
        return repository, latest, False
    return repository, *_start(connection, user_id, repository.id)


def _start(connection: Connection, user_id: int, repository_id: int) -> tuple[Analysis, bool]:
    """Raises TooMany: workers are there for all."""
    analysis, new = store.start(connection, repository_id)
    if new and store.count_live(connection, user_id) > MAX_LIVE:
        raise TooMany(f"{MAX_LIVE} analyses of yours are waiting or running.", RETRY_AFTER_SECONDS)
    return analysis, new


def _is_fresh(connection: Connection, analysis: Analysis) -> bool:
    finished_at = analysis.finished_at if analysis.status == SUCCEEDED else None
    return finished_at is not None and clock.now(connection) - finished_at < FRESH


def _entry(connection: Connection, user_id: int, repository_id: int) -> Entry:
    found = store.entries(connection, user_id, [repository_id])
    if not found:
        raise _unknown_repository()
    return found[0]


def _with_report_and_history(connection: Connection, user_id: int, repository_id: int) -> Entry:
    entry = _with_report(connection, _entry(connection, user_id, repository_id))
    return replace(entry, history=store.history(connection, repository_id))


def _with_reports(connection: Connection, user_id: int, repository_ids: Sequence[int]) -> list[Entry]:
    return [_with_report(connection, _entry(connection, user_id, repository_id)) for repository_id in repository_ids]


def _with_report(connection: Connection, entry: Entry) -> Entry:
    return replace(entry, report=store.report(connection, entry.last.analysis_id)) if entry.last else entry


def _unfollow(connection: Connection, user_id: int, repository_id: int) -> Analysis | None:
    """The analysis that was cancelled by it."""
    store.lock(connection, repository_id)
    if not store.unfollow(connection, user_id, repository_id):
        raise _unknown_repository()
    live = store.latest(connection, repository_id)
    if live and not store.followers(connection, repository_id) and store.cancel(connection, live.id):
        return store.one(connection, live.id)
    return None


def _analyse(connection: Connection, user_id: int, repository_id: int) -> tuple[Analysis, bool]:
    _entry(connection, user_id, repository_id)
    return _start(connection, user_id, repository_id)


def _reported(connection: Connection, user_id: int, analysis_id: int) -> Reported:
    analysis = _own(connection, user_id, analysis_id)
    return Reported(analysis, store.report(connection, analysis_id))


def _cancel(connection: Connection, user_id: int, analysis_id: int) -> Analysis:
    analysis = _own(connection, user_id, analysis_id)
    store.lock(connection, analysis.repository_id)
    if store.followers(connection, analysis.repository_id) != [user_id]:
        raise Conflict("Others follow this repository too and wait for the analysis.")
    if not store.cancel(connection, analysis_id):
        raise Conflict("This analysis has ended already.")
    return _own(connection, user_id, analysis_id)


def _own(connection: Connection, user_id: int, analysis_id: int) -> Analysis:
    analysis = store.one(connection, analysis_id)
    if analysis is None or not store.is_followed(connection, user_id, analysis.repository_id):
        raise NotFound("You have no such analysis.")
    return analysis


def _unknown_repository() -> NotFound:
    return NotFound("You follow no such repository.")
