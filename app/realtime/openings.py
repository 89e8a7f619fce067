"""Answers two questions when messages to a user reach this instance: does the session still exist, and what did the user miss?

They are answered together for all sockets that wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection as SqlConnection

from app.core.batch_loader import BatchLoader
from app.core.errors import Unavailable
from app.database.engine import Database
from app.realtime.connections import Identity
from app.realtime.identification import Identification, is_valid

Asked = Sequence[tuple[int, int | None]]  # user IDs, each with the number of the last notification that the client has


@dataclass(frozen=True)
class Opening:
    is_valid: bool
    missed: Any = None  # what the delivery of notifications starts with; None if the delivery has to read it


class Openings:
    def __init__(
        self,
        database: Database,
        identification: Identification,
        password_versions: Callable[[SqlConnection, Sequence[int]], dict[int, int]],
        read_missed: Callable[[SqlConnection, Asked], Sequence[Any]],
    ) -> None:
        self._database = database
        self._identification = identification
        self._password_versions = password_versions
        self._read_missed = read_missed
        self._loader = BatchLoader(self._load)

    def read(self, identity: Identity, after: int | None) -> Opening:
        """Return what is true after this call began. If a store is unavailable, the session counts as valid."""
        try:
            return self._loader.get((identity, after))
        except Unavailable:  # the maintenance of sockets checks the session when the store answers again
            return Opening(is_valid=True)

    def _load(self, asked: Sequence[tuple[Identity, int | None]]) -> list[Opening]:
        existing = self._identification.existing_sessions([identity for identity, _ in asked])
        versions, missed = self._database.run(self._read, [(identity.user_id, after) for identity, after in asked])
        return [
            Opening(is_valid(identity, existing, versions), found) for (identity, _), found in zip(asked, missed, strict=True)
        ]

    def _read(self, connection: SqlConnection, asked: Asked) -> tuple[dict[int, int], Sequence[Any]]:
        versions = self._password_versions(connection, sorted({user_id for user_id, _ in asked}))
        return versions, self._read_missed(connection, asked)
