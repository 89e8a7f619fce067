"""The way to SQL: `Database.run` performs one transaction, never blocks the event loop and never waits long.

PostgreSQL is driven cooperatively (`app.database.cooperative`) through a small pool. SQLite can't be: a busy wait in it stops
the very greenlet that holds the lock; so all its work is done by one native thread.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, StaticPool, create_engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError

from app.core.errors import Unavailable
from app.core.threads import NativeThreads
from app.database import cooperative

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE_SECONDS = 1.2  # for everything in one transaction: a free connection, connecting, each statement


class DatabaseUnavailable(Unavailable):
    def __init__(self) -> None:
        super().__init__("The database does not answer. Please try again in a moment.")


class Database:
    def __init__(self, url: str, pool_size: int, application_name: str) -> None:
        self.url = url
        self._sqlite = url.startswith("sqlite")
        self.engine = _sqlite_engine(url) if self._sqlite else _postgresql_engine(url, pool_size, application_name)
        self._free_connections = threading.BoundedSemaphore(pool_size)
        self._thread = NativeThreads(1) if self._sqlite else None

    def run(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work(connection, ...)` as one transaction: committed when it returns, rolled back when it raises.

        Raises DatabaseUnavailable after PATIENCE_SECONDS at most.
        """
        return self.run_within(PATIENCE_SECONDS, work, *args, **kwargs)

    def run_within(self, seconds: float, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._thread is not None:
            return self._thread.run(self._in_turn, time.monotonic() + seconds, work, args, kwargs)
        with cooperative.deadline(seconds), self._connection_slot():
            return self._transaction(partial(_patiently, seconds, work) if seconds > PATIENCE_SECONDS else work, args, kwargs)

    def close(self) -> None:
        self.engine.dispose()

    def _in_turn(self, deadline: float, work: Callable[..., T], args: Any, kwargs: Any) -> T:
        if time.monotonic() > deadline:  # it waited that long for the one thread
            raise DatabaseUnavailable
        return self._transaction(work, args, kwargs)

    def _transaction(self, work: Callable[..., T], args: Any, kwargs: Any) -> T:
        try:
            with self.engine.begin() as connection:
                return work(connection, *args, **kwargs)
        except (OperationalError, InterfaceError, DisconnectionError) as error:
            raise DatabaseUnavailable from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise DatabaseUnavailable from error
            raise

    @contextmanager
    def _connection_slot(self) -> Iterator[None]:
        # Waiting here and not in the pool makes the wait part of the transaction's own deadline.
        if not self._free_connections.acquire(timeout=cooperative.remaining_seconds()):
            raise DatabaseUnavailable
        try:
            yield
        finally:
            self._free_connections.release()


def _postgresql_engine(url: str, pool_size: int, application_name: str) -> Engine:
    cooperative.install()
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_recycle=1800,
        hide_parameters=True,  # statements may hold personal data, and errors are logged
        connect_args={"application_name": application_name, "keepalives_idle": 30, "connect_timeout": 2},
    )
    event.listen(engine, "do_connect", cooperative.resolve_host)
    event.listen(engine, "connect", _limit_statements)
    event.listen(engine, "checkout", _refuse_dead_connection)
    return engine


def _patiently(seconds: float, work: Callable[..., T], connection: Connection, *args: Any, **kwargs: Any) -> T:
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
    return work(connection, *args, **kwargs)


def _limit_statements(dbapi_connection: Any, _: Any) -> None:
    """The server gives up when the client does; otherwise a statement that waits for a lock would keep its backend for ever."""
    with dbapi_connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = {int(PATIENCE_SECONDS * 1000)}")
    dbapi_connection.commit()


def _refuse_dead_connection(dbapi_connection: Any, *_: Any) -> None:
    """An idle connection with something to read was closed by the server. Costs no round trip, unlike a ping."""
    poll = select.poll()
    poll.register(dbapi_connection.fileno(), select.POLLIN)
    if dbapi_connection.closed or poll.poll(0):
        raise DisconnectionError


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(
        url, poolclass=StaticPool, hide_parameters=True, connect_args={"check_same_thread": False, "timeout": PATIENCE_SECONDS}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(dbapi_connection: Any, _: Any) -> None:
    dbapi_connection.isolation_level = None  # SQLAlchemy's own way to take transactions from the driver
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "secure_delete=ON"):
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE takes the write lock first: a transaction that reads and then writes can't find it taken in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
