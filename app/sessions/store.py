"""What a session store has to be able to do. Redis does it for a fleet, SQL for an embedded instance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.sessions.cipher import Corrupt, sealed_with

KEY_PREFIX = "session:"
SIGNED = ".signed"  # the one field in the clear: the id of the key that the browser's cookie is signed with

MAX_PER_USER = 100  # sessions; with one more, the oldest ends
NEVER_AGAIN = 2**53 - 1  # a password version that no login ever has: for an account that is gone

Fields = dict[str, bytes]  # name of a field -> its sealed value


def record_key(session_id: str) -> str:
    """Where the record of a session is kept: by a digest, so that who reads the store can't take over a session."""
    return KEY_PREFIX + hashlib.sha256(session_id.encode()).hexdigest()


def public_id(key: str) -> str:
    """The name that a session has towards its user: it leads to the record, not to the cookie."""
    return hashlib.sha256(b"public\0" + key.encode()).hexdigest()[:24]


def key_ids(fields: Fields) -> frozenset[str]:
    """Of the keys that a record needs."""
    found = set()
    for name, value in fields.items():
        try:
            found.add(value.decode("ascii", "replace") if name == SIGNED else sealed_with(value))
        except Corrupt:
            continue
    return frozenset(found)


@dataclass(frozen=True)
class Owner:
    """Whose session it is, and which password of theirs it was opened with."""

    user_id: int
    password_version: int


@dataclass(frozen=True)
class Change:
    """Of one field: a new value, or None to delete it; with `expected`, only if the field still has that value."""

    value: bytes | None
    expected: bytes | None = None


class SessionStore(Protocol):
    """All methods raise app.core.errors.Unavailable if the store does not answer, and are atomic across instances."""

    def load(self, key: str) -> Fields | None:
        """None if there is no such record. Raises cipher.Corrupt where something else is stored in its place."""

    def create(self, key: str, fields: Fields, ttl: int, owner: Owner | None, replaces: str | None) -> bool:
        """Stores a new record and destroys the one that it replaces. False, and nothing is stored, if the owner's password
        is a newer one by now."""

    def merge(self, key: str, changes: Mapping[str, Change], ttl: int | None) -> bool:
        """Applies the changes to a record that still exists, leaving other fields alone; False if it is gone, and it stays so.
        `ttl`: the remaining life in seconds from now, if that is to change."""

    def destroy(self, key: str) -> None: ...

    def living(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys that have a record."""

    def of_user(self, user_id: int) -> dict[str, Fields]:
        """All live records of a user, by their keys."""

    def destroy_all(self, user_id: int, *, keep: str | None, password_version: int | None = None) -> int:
        """Destroys the user's records but the one to keep; returns how many. From then on none can be created with an older
        password than that version."""

    def key_ids_in_use(self) -> Iterator[frozenset[str]]:
        """Of each record, the ids of the keys that its fields are sealed and its cookie is signed with. Walks through all."""
