from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import gevent
import pytest
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from app.auth import store as users_store
from app.database import cooperative
from app.database.engine import Database, DatabaseUnavailable
from app.database.schema import session_fields, users
from harness.servers import free_port
from tests.unit.database.test_schema import postgresql_url


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
