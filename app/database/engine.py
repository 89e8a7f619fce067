"""Access to SQL: `Database.run` executes one transaction without blocking the event loop, and with a short timeout.

PostgreSQL is used cooperatively (`app.database.cooperative`) through a small pool. SQLite blocks while it waits for a lock, which
would also stop the greenlet that holds it; therefore one native thread does all SQLite work.
"""

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

SQL_TIMEOUT_SECONDS = 1.2  # of a transaction, including the wait for a free connection and connecting


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
        """Call `work(connection, ...)` in one transaction; commit when it returns, roll back when it raises.

        Raises DatabaseUnavailable after SQL_TIMEOUT_SECONDS.
        """
        return self.run_within(SQL_TIMEOUT_SECONDS, work, *args, **kwargs)

    def run_within(self, seconds: float, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._thread is not None:
            return self._thread.run(self._run_in_thread, time.monotonic() + seconds, work, args, kwargs)
        with cooperative.deadline(seconds), self._connection_slot():
            return self._transaction(
                partial(_with_statement_timeout, seconds, work) if seconds > SQL_TIMEOUT_SECONDS else work, args, kwargs
            )

    def close(self) -> None:
        self.engine.dispose()

    def _run_in_thread(self, deadline: float, work: Callable[..., T], args: Any, kwargs: Any) -> T:
        if time.monotonic() > deadline:  # the thread was busy for that long
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
        # The pool's own wait would not count towards the deadline of the transaction.
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
        connect_args={
            "application_name": application_name,
            "client_encoding": "utf8",
            "keepalives_idle": 30,
            "connect_timeout": 2,
        },
    )
    event.listen(engine, "do_connect", cooperative.resolve_host)
    event.listen(engine, "connect", _limit_statements)
    event.listen(engine, "checkout", _refuse_dead_connection)
    return engine


def _with_statement_timeout(seconds: float, work: Callable[..., T], connection: Connection, *args: Any, **kwargs: Any) -> T:
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
    return work(connection, *args, **kwargs)


def _limit_statements(dbapi_connection: Any, _: Any) -> None:
    """Make the server cancel a statement when the client gives up; one that waits for a lock would occupy a backend for ever."""
    with dbapi_connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = {int(SQL_TIMEOUT_SECONDS * 1000)}")
    dbapi_connection.commit()


def _refuse_dead_connection(dbapi_connection: Any, *_: Any) -> None:
    """Reject an idle connection with data to read: the server has closed it. Unlike a ping, this costs no round trip."""
    poll = select.poll()
    poll.register(dbapi_connection.fileno(), select.POLLIN)
    if dbapi_connection.closed or poll.poll(0):
        raise DisconnectionError


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(
        url,
        poolclass=StaticPool,
        hide_parameters=True,
        connect_args={"check_same_thread": False, "timeout": SQL_TIMEOUT_SECONDS},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(dbapi_connection: Any, _: Any) -> None:
    dbapi_connection.isolation_level = None  # SQLAlchemy begins transactions, not the driver
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "secure_delete=ON"):
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE acquires the write lock at once, so a transaction that reads first and writes later can't fail on the lock.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
