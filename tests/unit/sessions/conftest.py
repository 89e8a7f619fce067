"""Fixtures for tests that run with each session store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from app.auth import store as users
from app.core.errors import Unavailable
from app.database.engine import Database
from app.sessions.redis_store import RedisSessionStore
from app.sessions.sql_store import SqlSessionStore
from app.sessions.store import FieldChange, Fields, Owner, SessionStore, record_key

MAX_AGE = 1000


@dataclass
class Backend:
    """A session store, and the database with its users."""

    store: SessionStore
    database: Database

    def new_owner(self, email: str = "ada@example.org") -> Owner:
        user = self.database.run(users.add, email, "hash")
        return Owner(user.id, user.password_version)

    def key(self, name: str, owner: Owner | None = None) -> str:
        """Return the key of a record of this owner."""
        user_id = self.store.new_id(owner).rpartition(".")[0]
        return record_key(f"{user_id}.{name}" if user_id else name)

    def keys(self, owner: Owner) -> tuple[str, str, str]:
        """Return the keys of three records of this owner."""
        return self.key("one", owner), self.key("two", owner), self.key("three", owner)

    def change_password(self, owner: Owner, *, keep: str | None = None) -> Owner:
        """Change the password as the application does: first the user's row, then the sessions."""
        user = self.database.run(users.by_id, owner.user_id)
        assert user is not None
        version = owner.password_version + 1
        assert self.database.run(users.set_password, user, "other hash", version=version)
        self.store.destroy_all(owner.user_id, keep=keep, password_version=version)
        return Owner(owner.user_id, version)


@dataclass
class RecordingStore:
    """A store that records each call and fails the calls in `failing`."""

    inner: SessionStore
    calls: list[str] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)

    def _record(self, call: str) -> None:
        self.calls.append(call)
        if call in self.failing:
            raise Unavailable("The session store does not answer.")

    def new_id(self, owner: Owner | None) -> str:
        return self.inner.new_id(owner)

    def load(self, key: str) -> Fields | None:
        self._record("load")
        return self.inner.load(key)

    def load_again(self, key: str) -> Fields | None:
        self._record("load_again")
        return self.inner.load_again(key)

    def create(self, key: str, fields: Fields, ttl: int, owner: Owner | None, replaces: str | None) -> bool:
        self._record("create")
        return self.inner.create(key, fields, ttl, owner, replaces)

    def merge(self, key: str, changes: Mapping[str, FieldChange], ttl: int | None, user_id: int | None = None) -> bool:
        self._record("merge")
        return self.inner.merge(key, changes, ttl, user_id)

    def destroy(self, key: str) -> None:
        self._record("destroy")
        self.inner.destroy(key)

    def existing(self, keys: Sequence[str]) -> set[str]:
        self._record("existing")
        return self.inner.existing(keys)

    def records_of_user(self, user_id: int) -> dict[str, Fields]:
        self._record("records_of_user")
        return self.inner.records_of_user(user_id)

    def destroy_all(self, user_id: int, *, keep: str | None, password_version: int | None = None) -> int:
        self._record("destroy_all")
        return self.inner.destroy_all(user_id, keep=keep, password_version=password_version)

    def key_ids_in_use(self) -> Iterator[frozenset[str]]:
        self._record("key_ids_in_use")
        return self.inner.key_ids_in_use()


@pytest.fixture
def redis_backend(request: pytest.FixtureRequest, database: Database) -> Backend:
    client, multiplexed = (request.getfixturevalue(name) for name in ("redis_client", "multiplexed"))
    return Backend(RedisSessionStore(client, multiplexed, MAX_AGE), database)


@pytest.fixture
def cluster_backend(request: pytest.FixtureRequest, database: Database) -> Backend:
    client, commands = (request.getfixturevalue(name) for name in ("cluster_client", "cluster_commands"))
    return Backend(RedisSessionStore(client, commands, MAX_AGE), database)


@pytest.fixture
def sqlite_backend(database: Database) -> Backend:
    return Backend(SqlSessionStore(database), database)


@pytest.fixture
def postgresql_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The SQL store on PostgreSQL, which embedded mode supports too."""
    url = request.getfixturevalue("database_url").replace("postgresql:", "postgresql+psycopg2:")
    database = Database(url, 5, "test")
    yield Backend(SqlSessionStore(database), database)
    database.close()


@pytest.fixture(params=["redis", "cluster", "sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.getfixturevalue(f"{request.param}_backend")
    return found


@pytest.fixture
def store(backend: Backend) -> SessionStore:
    return backend.store
