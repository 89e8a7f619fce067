from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import gevent
import psycopg2
import pytest
from sqlalchemy import Connection, Executable, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from app.auth import store as users_store
from app.core.errors import Invalid, cause_of
from app.database import cooperative
from app.database.engine import MAX_ATTEMPTS, Database, DatabaseReadOnly, DatabaseUnavailable, is_read_only
from app.database.schema import repositories, session_fields, users
from harness.servers import free_port, wait_until
from tests.unit.conftest import count_of
from tests.unit.database.conftest import postgresql_url


@pytest.fixture
def postgresql(database_url: str) -> Iterator[Database]:
    database = Database(postgresql_url(database_url), 1, "instance-7")
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue("database" if request.param == "sqlite" else "postgresql")
    return found


def count_users(connection: Connection) -> int:
    return len(connection.execute(select(users.c.id)).all())


def test_transaction_is_committed_on_return(either: Database) -> None:
    user = either.run(users_store.add, "ada@example.org", "hash")
    assert either.run(users_store.by_id, user.id) == user


def test_transaction_is_rolled_back_on_exception(either: Database) -> None:
    def add_and_fail(connection: Connection) -> None:
        users_store.add(connection, "ada@example.org", "hash")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        either.run(add_and_fail)
    assert either.run(count_users) == 0


def test_foreign_keys_are_enforced(either: Database) -> None:
    orphan = insert(session_fields).values(key="session:none", name="name", sealed=b"")
    with pytest.raises(IntegrityError):
        either.run(lambda connection: connection.execute(orphan))


def test_invalid_statement_is_not_reported_as_unavailable(postgresql: Database) -> None:
    with pytest.raises(ProgrammingError):
        postgresql.run(lambda connection: connection.execute(text("SELECT nonsense FROM users")))
    assert postgresql.run(count_users) == 0


def test_errors_contain_no_statement_parameters(either: Database) -> None:
    either.run(users_store.add, "ada@example.org", "hash")
    statement = insert(users).values(email="ada@example.org", password_hash="hunter2", created_at=datetime.now(UTC))
    with pytest.raises(IntegrityError) as raised:
        either.run(lambda connection: connection.execute(statement))
    assert "hunter2" not in str(raised.value)


def test_unreachable_server_is_reported_as_unavailable() -> None:
    database = Database(f"postgresql+psycopg2://postgres@127.0.0.1:{free_port()}/none", 1, "test")
    with pytest.raises(DatabaseUnavailable) as raised:
        database.run(count_users)
    assert raised.value.status == 503
    assert "127.0.0.1" not in raised.value.detail


def test_slow_statement_times_out(postgresql: Database) -> None:
    with pytest.raises(DatabaseUnavailable):
        postgresql.run_within(0.2, lambda connection: connection.execute(text("SELECT pg_sleep(60)")))
    assert postgresql.run(count_users) == 0


def test_wait_for_a_free_connection_times_out(postgresql: Database) -> None:
    def need_another(connection: Connection) -> None:
        with pytest.raises(DatabaseUnavailable):
            postgresql.run_within(0.1, count_users)

    postgresql.run(need_another)
    assert postgresql.run(count_users) == 0


def test_application_name_is_the_instance_id(postgresql: Database) -> None:
    name = postgresql.run(lambda connection: connection.execute(text("SELECT current_setting('application_name')")).scalar())
    assert name == "instance-7"


def test_connection_closed_by_the_server_is_not_reused(postgresql: Database) -> None:
    def pid(connection: Connection) -> int:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())

    first = postgresql.run(pid)
    other = Database(postgresql.url, 1, "other")
    other.run(lambda connection: connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": first}))
    other.close()
    assert postgresql.run(pid) != first


def test_remaining_time_is_unlimited_without_a_deadline() -> None:
    assert cooperative.remaining_seconds() is None
    with cooperative.deadline(60):
        assert 59 < (cooperative.remaining_seconds() or 0) <= 60
        with cooperative.deadline(0):
            assert cooperative.remaining_seconds() == 0
        assert 59 < (cooperative.remaining_seconds() or 0) <= 60
    assert cooperative.remaining_seconds() is None


def test_many_greenlets_can_use_one_sqlite_file(database: Database) -> None:
    jobs = [gevent.spawn(database.run, users_store.add, f"user-{number}@example.org", "hash") for number in range(50)]
    gevent.joinall(jobs, raise_error=True)
    assert database.run(count_users) == 50


# Errors by SQLSTATE.


def raise_sqlstate(connection: Connection, state: str) -> None:
    connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'from a trigger' USING ERRCODE = '{state}'; END $$"))


@pytest.mark.parametrize("state", ["08006", "25P03", "40003", "53100", "53300", "55P03", "57014", "57P01", "58030"])
def test_outage_is_reported_as_unavailable(postgresql: Database, state: str) -> None:
    with pytest.raises(DatabaseUnavailable) as raised:
        postgresql.run(raise_sqlstate, state)
    assert (raised.value.status, raised.value.headers["Retry-After"]) == (503, "2")
    assert not isinstance(raised.value, DatabaseReadOnly)
    assert cause_of(raised.value) == "from a trigger"


@pytest.mark.parametrize("state", ["22001", "22003", "22008", "22021", "22P02", "22P05", "54000"])
def test_value_that_cannot_be_stored_is_invalid(postgresql: Database, state: str) -> None:
    with pytest.raises(Invalid) as raised:
        postgresql.run(raise_sqlstate, state)
    assert raised.value.status == 422


@pytest.mark.parametrize("state", ["0A000", "22012", "25P02", "42703", "54001", "P0001", "XX000", "XX001"])
def test_other_errors_are_bugs(postgresql: Database, state: str) -> None:
    with pytest.raises(DBAPIError) as raised:
        postgresql.run(raise_sqlstate, state)
    assert raised.value.orig is not None
    assert postgresql.run(count_users) == 0


@pytest.mark.parametrize("state", ["40001", "40P01"])
@pytest.mark.parametrize("conflicts", [0, 1, MAX_ATTEMPTS - 1, MAX_ATTEMPTS])
def test_conflict_is_retried_a_few_times(postgresql: Database, state: str, conflicts: int) -> None:
    attempts = 0

    def conflict(connection: Connection) -> str:
        nonlocal attempts
        attempts += 1
        if attempts <= conflicts:
            raise_sqlstate(connection, state)
        return "committed"

    if conflicts < MAX_ATTEMPTS:
        assert postgresql.run_within(10, conflict) == "committed"
    else:
        with pytest.raises(DatabaseUnavailable):
            postgresql.run_within(10, conflict)
    assert attempts == min(conflicts + 1, MAX_ATTEMPTS)


def test_entry_too_large_for_an_index_names_its_column(postgresql: Database) -> None:
    url = "".join(chr(0x4E00 + secrets.randbelow(20_000)) for _ in range(1200))
    values = {"url": url, "name": "x", "created_at": datetime.now(UTC), "due_at": datetime.now(UTC)}
    with pytest.raises(Invalid) as raised:
        postgresql.run(lambda connection: connection.execute(insert(repositories).values(values)))
    assert [error["field"] for error in raised.value.errors] == ["url"]


LONG, LARGE = "x" * 256, 2**31
USER: dict[str, Any] = {"email": "ada@example.org", "password_hash": "hash", "created_at": datetime(2026, 1, 1, tzinfo=UTC)}


@pytest.mark.parametrize(
    ("statement", "field"),
    [
        (insert(users).values(USER | {"email": LONG}), "email"),
        (insert(users).values([USER, USER | {"password_hash": LONG}]), "password_hash"),
        (insert(users).values(USER | {"password_version": LARGE}), "password_version"),
        (insert(users).values(USER | {"id": 2**63}), "id"),
        (update(users).values(password_version=LARGE).where(users.c.email == LONG), "password_version"),
    ],
)
def test_value_without_room_names_its_column(postgresql: Database, statement: Executable, field: str) -> None:
    postgresql.run(users_store.add, LONG[:254], "hash")
    with pytest.raises(Invalid) as raised:
        postgresql.run(lambda connection: connection.execute(statement))
    assert [error["field"] for error in raised.value.errors] == [field]


# A server that accepts no changes.


def pid_of(connection: Connection) -> int:
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


@pytest.fixture
def become_read_only(postgresql: Database) -> Iterator[Callable[[bool], None]]:
    """Make the next connections read-only, as those to a standby are, and this one too."""
    name = postgresql.url.rpartition("/")[2]
    other = Database(postgresql.url, 1, "operator")

    def change(value: bool) -> None:
        def alter(connection: Connection) -> None:
            connection.execute(text("SET TRANSACTION READ WRITE"))
            connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = {'on' if value else 'off'}"))

        other.run(alter)
        if value:
            postgresql.engine.dispose()

    yield change
    change(False)
    other.close()


def test_read_only_server_serves_reads_and_refuses_writes(postgresql: Database, become_read_only: Callable[[bool], None]) -> None:
    become_read_only(True)
    assert postgresql.run(count_users) == 0
    with pytest.raises(DatabaseReadOnly) as raised:
        postgresql.run(users_store.add, "ada@example.org", "hash")
    assert (raised.value.status, raised.value.headers["Retry-After"]) == (503, "2")
    assert "read-only transaction" in cause_of(raised.value)


def test_connection_to_a_read_only_server_is_dropped(postgresql: Database, become_read_only: Callable[[bool], None]) -> None:
    become_read_only(True)
    first = postgresql.run(pid_of)
    assert postgresql.run(pid_of) == first
    with pytest.raises(DatabaseReadOnly):
        postgresql.run(users_store.add, "ada@example.org", "hash")
    assert postgresql.run(pid_of) != first
    become_read_only(False)
    with pytest.raises(DatabaseReadOnly):
        postgresql.run(users_store.add, "ada@example.org", "hash")
    assert postgresql.run(users_store.add, "ada@example.org", "hash").id


def test_check_for_a_read_only_server_drops_its_connection(
    postgresql: Database, become_read_only: Callable[[bool], None]
) -> None:
    assert postgresql.run(is_read_only) is False
    become_read_only(True)
    first = postgresql.run(pid_of)
    assert postgresql.run(is_read_only) is True
    become_read_only(False)
    assert postgresql.run(pid_of) != first
    assert postgresql.run(is_read_only) is False


def test_all_idle_connections_to_a_read_only_server_are_dropped_at_once(
    postgresql: Database, become_read_only: Callable[[bool], None]
) -> None:
    database = Database(postgresql.url, 3, "test")
    become_read_only(True)
    database.run(lambda _: database.run(lambda _: database.run(count_users)))  # opens three connections
    become_read_only(False)
    with pytest.raises(DatabaseReadOnly):
        database.run(users_store.add, "ada@example.org", "hash")
    for number in range(3):
        assert database.run(users_store.add, f"ada-{number}@example.org", "hash").id
    database.close()


def test_sqlite_is_not_read_only(database: Database) -> None:
    assert database.run(is_read_only) is False


# What the log and the metrics say about the pool.


def test_cause_names_the_pool_if_no_connection_was_free(postgresql: Database) -> None:
    def need_another(connection: Connection) -> str:
        assert count_of("reporadar_database_connections_in_use") == 1
        with pytest.raises(DatabaseUnavailable) as raised:
            postgresql.run_within(0.1, count_users)
        return cause_of(raised.value)

    waits = count_of("reporadar_database_pool_wait_seconds_count")
    assert postgresql.run(need_another).startswith("all 1 connections of this process were in use for 0.1 s")
    assert count_of("reporadar_database_connections_in_use") == 0
    assert count_of("reporadar_database_pool_wait_seconds_count") == waits + 2


def test_cause_names_the_pool_if_the_wait_for_it_used_up_the_time(postgresql: Database) -> None:
    def sleep(connection: Connection, seconds: float) -> None:
        connection.execute(text(f"SELECT pg_sleep({seconds})"))

    with ThreadPoolExecutor(1) as executor:
        holder = executor.submit(postgresql.run, sleep, 0.6)
        wait_until(lambda: postgresql._free_connections._value == 0)
        with pytest.raises(DatabaseUnavailable) as raised:
            postgresql.run_within(0.8, sleep, 60)
        holder.result()
    cause = cause_of(raised.value)
    assert cause.startswith("all 1 connections of this process were in use for 0.")
    assert cause.endswith("; then: PostgreSQL did not answer in time")


def test_cause_does_not_blame_the_host_name_if_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: gevent.sleep(1))
    with cooperative.deadline(0), pytest.raises(psycopg2.OperationalError, match="no time was left"):
        cooperative.resolve_host(None, None, None, {"host": "localhost"})
