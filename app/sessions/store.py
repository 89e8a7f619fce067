"""The interface of session stores: Redis in fleet mode, SQL in embedded mode."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from app.sessions.cipher import CorruptRecord, encryption_key_id

KEY_PREFIX = "session:"
SIGNED = ".signed"  # the only unencrypted field: the ID of the key that signed the browser's cookie

MAX_SESSIONS_PER_USER = 100  # one more ends the oldest
PASSWORD_VERSION_OF_DELETED_ACCOUNT = 2**53 - 1  # higher than that of any login

Fields = dict[str, bytes]  # field name -> encrypted value


@lru_cache(maxsize=64)  # a request needs its key several times
def record_key(session_id: str) -> str:
    """Return the store key of a session. It is a digest, so that reading the store is not enough to take over sessions.

    If the ID contains the user, so does the key, as the hash tag by which a Redis Cluster keeps all keys of the user together.
    """
    user_id = session_id.rpartition(".")[0]
    tag = f"{{user:{user_id}}}:" if user_id else ""
    return KEY_PREFIX + tag + hashlib.sha256(session_id.encode()).hexdigest()


def user_id_of_key(key: str) -> int | None:
    """Return the user whom a store key names, or None."""
    match = re.match(r"session:\{user:([0-9]+)\}:", key)
    return int(match[1]) if match else None


def public_id(key: str) -> str:
    """Return the ID under which users see and end their sessions. It can't be used as a cookie."""
    return hashlib.sha256(b"public\0" + key.encode()).hexdigest()[:24]


def key_ids(fields: Fields) -> frozenset[str]:
    """Return the IDs of the encryption and signing keys that a record needs."""
    found = set()
    for name, value in fields.items():
        try:
            found.add(value.decode("ascii", "replace") if name == SIGNED else encryption_key_id(value))
        except CorruptRecord:
            continue
    return frozenset(found)


@dataclass(frozen=True)
class Owner:
    """The user of a session, and the version of the password that the user signed in with."""

    user_id: int
    password_version: int


@dataclass(frozen=True)
class FieldChange:
    """A new value of one field, or None to delete it. With `expected`, it applies only if the field still has that value."""

    value: bytes | None
    expected: bytes | None = None


class SessionStore(Protocol):
    """Every method is atomic across instances and raises app.core.errors.Unavailable if the store does not answer."""

    def new_id(self, owner: Owner | None) -> str:
        """Return an ID for a new session. It contains the owner if `record_key` needs it to place the record."""

    def load(self, key: str) -> Fields | None:
        """Return a record, or None if there is none. Raises CorruptRecord if the key holds data of another type."""

    def load_again(self, key: str) -> Fields | None:
        """Like `load`, on a new connection: the reply on the other one may have belonged to another command."""

    def create(self, key: str, fields: Fields, ttl: int, owner: Owner | None, replaces: str | None) -> bool:
        """Store a new record and destroy the one that it replaces. `ttl` in seconds.

        Return False and store nothing if the owner's password has changed since.
        """

    def merge(self, key: str, changes: Mapping[str, FieldChange], ttl: int | None, user_id: int | None = None) -> bool:
        """Apply changes to an existing record and leave other fields alone; False if the record no longer exists.

        `ttl`: new remaining life in seconds, None to keep it. `user_id`: the owner, in whose list a record with a new life stays.
        """

    def destroy(self, key: str) -> None: ...

    def existing(self, keys: Sequence[str]) -> set[str]:
        """Return the keys that have a record.

        On a cluster with a lost master, its keys are among them: whether they have a record is not known until it answers.
        """

    def records_of_user(self, user_id: int) -> dict[str, Fields]: ...

    def destroy_all(self, user_id: int, *, keep: str | None, password_version: int | None = None) -> int:
        """Destroy all records of a user except `keep`; return how many.

        With `password_version`, later calls of `create` with an older version fail.
        """

    def key_ids_in_use(self) -> Iterator[frozenset[str]]:
        """Yield the key IDs that each record needs (see `key_ids`). Scans all records.

        Raises Unavailable, at the end at the latest, if records may have been missed.
        """
