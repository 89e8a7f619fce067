"""Reads what is needed to open sockets, together for all that wait: users, sessions and missed notifications.

When an instance ends, hundreds of clients connect to the others within a second. Those that have been identified go first:
otherwise all of them would be half open for as long as it takes to open them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection as SqlConnection

from app.core.batch_loader import BatchLoader
from app.core.errors import Unavailable
from app.database.engine import Database
from app.realtime.connections import Identity
from app.sessions.store import SessionStore

MAX_WAIT_SECONDS = 4.0  # of a handshake; its client gives up after 5 s or more

Asked = Sequence[tuple[int, int | None]]  # user IDs, each with the number of the last notification that the client has
PasswordVersions = Callable[[SqlConnection, Sequence[int]], dict[int, int]]  # of the users that exist, by user ID
ReadMissed = Callable[[SqlConnection, Asked], Sequence[Any]]


@dataclass(frozen=True)
class Opening:
    """The session and the missed notifications of a socket that messages to its user already reach."""

    is_valid: bool  # whether its session still exists and was opened with the current password
    missed: Any = None  # what the delivery of notifications starts with; None if the delivery has to read it


class _Question(NamedTuple):
    user_id: int
    identity: Identity | None = None  # of a socket; without it, the question is only for the user's password version
    after: int | None = None


class Openings:
    def __init__(
        self, database: Database, sessions: SessionStore, password_versions: PasswordVersions, read_missed: ReadMissed
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._password_versions = password_versions
        self._read_missed = read_missed
        self._loader: BatchLoader[_Question, Any] = BatchLoader(self._load, MAX_WAIT_SECONDS)

    def refuse_if_busy(self) -> None:
        """Raise TooBusy if a socket that begins to be opened now would wait too long."""
        self._loader.refuse_if_busy()

    def password_version(self, user_id: int) -> int | None:
        """Return the password version of the user who begins to open a socket, or None. Raises Unavailable."""
        version: int | None = self._loader.get(_Question(user_id))
        return version

    def read(self, identity: Identity, after: int | None) -> Opening:
        """Return what is true after this call began. If a store is unavailable, the session counts as valid."""
        try:
            opening: Opening = self._loader.get(_Question(identity.user_id, identity, after), first=True)
        except Unavailable:  # the maintenance of sockets checks the session when the store answers again
            return Opening(is_valid=True)
        return opening

    def _load(self, questions: Sequence[_Question]) -> list[Any]:
        existing = self._sessions.existing([one.identity.session_key for one in questions if one.identity])
        versions, pages = self._database.run(self._read, questions)
        missed = iter(pages)
        return [
            Opening(is_valid(one.identity, existing, versions), next(missed)) if one.identity else versions.get(one.user_id)
            for one in questions
        ]

    def _read(self, connection: SqlConnection, questions: Sequence[_Question]) -> tuple[dict[int, int], Sequence[Any]]:
        versions = self._password_versions(connection, sorted({one.user_id for one in questions}))
        asked = [(one.user_id, one.after) for one in questions if one.identity]
        return versions, self._read_missed(connection, asked) if asked else []


def is_valid(identity: Identity, existing: set[str], versions: dict[int, int]) -> bool:
    return identity.session_key in existing and versions.get(identity.user_id) == identity.password_version
