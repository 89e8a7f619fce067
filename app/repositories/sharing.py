"""Sharing of reports: under a link that cannot be guessed, anyone sees the report of a repository without an account."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from app.core.errors import NotFound
from app.database.engine import Database
from app.repositories import share_store, store
from app.repositories.store import PastAnalysis

KEY_BYTES = 16  # 128 random bits

LogEvent = Callable[..., None]  # writes to the audit log: the event, the address of the client, and facts by name


@dataclass(frozen=True)
class SharedReport:
    """A report as everyone who has the link sees it, without anything that belongs to the user who shares it."""

    name: str
    url: str  # empty for a local repository: its path says something about the server
    last_success: PastAnalysis | None
    report: dict[str, Any] | None = None  # of `last_success`
    history: list[PastAnalysis] = field(default_factory=list)  # newest first

    @property
    def scores(self) -> dict[str, int | None] | None:
        return self.last_success.scores if self.last_success else None


class Sharing:
    """Links are looked up in SQL at each request, so one that has ended is refused by every instance at once."""

    def __init__(self, database: Database, log_event: LogEvent) -> None:
        self._database = database
        self._log_event = log_event

    def share(self, user_id: int, repository_id: int, address: str) -> str:
        """Return the key of the user's link to a repository, which is created if necessary. Raises NotFound.

        `address` is the client's, for the audit log.
        """
        new = secrets.token_hex(KEY_BYTES)
        key = self._database.run(share_store.create_key, user_id, repository_id, new)
        if key is None:
            raise _unknown_repository()
        if key == new:
            self._log_event("share.created", address, user=user_id, repository=repository_id)
        return key

    def stop(self, user_id: int, repository_id: int, address: str) -> None:
        """End the user's link to a repository, if there is one. Raises NotFound."""
        if self._database.run(share_store.remove_key, user_id, repository_id):
            self._log_event("share.ended", address, user=user_id, repository=repository_id)
        elif not self._database.run(store.is_followed, user_id, repository_id):
            raise _unknown_repository()

    def key_of(self, user_id: int, repository_id: int) -> str | None:
        """Return the key of the user's link to a repository, or None if they do not share it."""
        return self._database.run(share_store.key_of, user_id, repository_id)

    def report(self, key: str) -> SharedReport:
        """Return what a link shares. Raises NotFound."""
        return self._database.run(_report, key)

    def last_success(self, key: str) -> PastAnalysis | None:
        """Return only the scores of the report that a link shares, or None without a report. Raises NotFound."""
        return self._database.run(_last_success, key)


def _report(connection: Connection, key: str) -> SharedReport:
    repository = _repository(connection, key)
    history = store.history(connection, repository.id)
    url = "" if repository.url.startswith("/") else repository.url
    if not history:
        return SharedReport(repository.name, url, None)
    report = store.get_report(connection, history[0].analysis_id)
    return SharedReport(repository.name, url, history[0], report, history)


def _last_success(connection: Connection, key: str) -> PastAnalysis | None:
    return next(iter(store.history(connection, _repository(connection, key).id, limit=1)), None)


def _repository(connection: Connection, key: str) -> store.Repository:
    found = share_store.shared_repository(connection, key)
    if found is None:
        raise NotFound("Nothing is shared under this link. Perhaps its owner stopped sharing the report.")
    return found


def _unknown_repository() -> NotFound:
    return NotFound("You do not follow this repository.")
