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


def test_work_that_returns_is_committed(either: Database) -> None:
    user = either.run(users_store.add, "ada@example.org", "hash")
    assert either.run(users_store.by_id, user.id) == user


def test_work_that_raises_is_undone(either: Database) -> None:
    def add_and_fail(connection: Connection) -> None:
        users_store.add(connection, "ada@example.org", "hash")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        either.run(add_and_fail)
    assert either.run(count_users) == 0


def test_references_are_kept(either: Database) -> None:
    orphan = insert(session_fields).values(key="session:none", name="name", sealed=b"")
    with pytest.raises(IntegrityError):
        either.run(lambda connection: connection.execute(orphan))


def test_a_fault_in_a_statement_is_not_an_outage(postgresql: Database) -> None:
    with pytest.raises(ProgrammingError):
        postgresql.run(lambda connection: connection.execute(text("SELECT nonsense FROM users")))
    assert postgresql.run(count_users) == 0


def test_what_a_statement_was_given_is_in_no_error(either: Database) -> None:
    either.run(users_store.add, "ada@example.org", "hash")
    statement = insert(users).values(email="ada@example.org", password_hash="hunter2", created_at=datetime.now(UTC))
    with pytest.raises(IntegrityError) as raised:
        either.run(lambda connection: connection.execute(statement))
    assert "hunter2" not in str(raised.value)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    database = Database(f"postgresql+psycopg2://postgres@127.0.0.1:{free_port()}/none", 1, "test")
    with pytest.raises(DatabaseUnavailable) as raised:
        database.run(count_users)
    assert raised.value.status == 503
    assert "127.0.0.1" not in raised.value.detail


def test_a_statement_that_takes_too_long_is_given_up(postgresql: Database) -> None:
    with pytest.raises(DatabaseUnavailable):
        postgresql.run_within(0.2, lambda connection: connection.execute(text("SELECT pg_sleep(60)")))
    assert postgresql.run(count_users) == 0


def test_a_free_connection_is_not_waited_for_beyond_the_deadline(postgresql: Database) -> None:
    def need_another(connection: Connection) -> None:
        with pytest.raises(DatabaseUnavailable):
            postgresql.run_within(0.1, count_users)

    postgresql.run(need_another)
    assert postgresql.run(count_users) == 0


def test_connections_bear_the_name_of_the_instance(postgresql: Database) -> None:
    name = postgresql.run(lambda connection: connection.execute(text("SELECT current_setting('application_name')")).scalar())
    assert name == "instance-7"


def test_a_connection_that_the_server_closed_is_not_used_again(postgresql: Database) -> None:
    def pid(connection: Connection) -> int:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())

    first = postgresql.run(pid)
    other = Database(postgresql.url, 1, "other")
    other.run(lambda connection: connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": first}))
    other.close()
    assert postgresql.run(pid) != first


def test_without_a_deadline_there_is_no_end() -> None:
    assert cooperative.remaining_seconds() is None
    with cooperative.deadline(60):
        assert 59 < (cooperative.remaining_seconds() or 0) <= 60
        with cooperative.deadline(0):
            assert cooperative.remaining_seconds() == 0
        assert 59 < (cooperative.remaining_seconds() or 0) <= 60
    assert cooperative.remaining_seconds() is None


def test_many_greenlets_share_one_sqlite_file(database: Database) -> None:
    jobs = [gevent.spawn(database.run, users_store.add, f"user-{number}@example.org", "hash") for number in range(50)]
    gevent.joinall(jobs, raise_error=True)
    assert database.run(count_users) == 50
