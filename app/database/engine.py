"""Access to SQL: `Database.run` executes one transaction without blocking the event loop, and with a short timeout.

PostgreSQL is used cooperatively (`app.database.cooperative`) through a small pool. SQLite blocks while it waits for a lock, which
would also stop the greenlet that holds it; therefore one native thread does all SQLite work.
"""

import logging
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from psycopg2 import extensions
from sqlalchemy import Connection, Engine, StaticPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError

from app.core import metrics
from app.core.errors import Invalid, Problem, Unavailable, cause_of
from app.core.threads import NativeThreads
from app.core.warnings import OperatorWarning
from app.database import cooperative
from app.database.sqlstate import ErrorClass, classify, column_of

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

SQL_TIMEOUT_SECONDS = 1.2  # of a transaction, including the wait for a free connection and connecting
_STATEMENT_TIMEOUT_MS = int(SQL_TIMEOUT_SECONDS * 1000)
READ_ONLY_WARNING = OperatorWarning(
    "read_only", "read-only: reads succeed and writes are answered with 503 until DATABASE_URL leads to a primary"
)
LONG_WAIT_SECONDS = 0.3  # for a free connection; longer waits are part of the cause of an outage
MAX_ATTEMPTS = 3  # of a transaction that conflicts with others


class DatabaseUnavailable(Unavailable):
    def __init__(self, detail: str = "The database does not answer. Please try again in a moment.") -> None:
        super().__init__(detail)


class DatabaseReadOnly(DatabaseUnavailable):
    def __init__(self) -> None:
        super().__init__("The database accepts no changes at the moment. Please try again later.")


class NoFreeConnection(Exception):
    """All connections of the pool were in use. The cause of a DatabaseUnavailable, for the log."""


class Database:
    def __init__(self, url: str, pool_size: int, application_name: str, *, pooler: str | None = None) -> None:
        """`pooler`: "transaction" if `url` leads to PgBouncer in transaction mode; then each transaction sets its own limits."""
        self.url = url
        self.pooler = pooler
        self._sqlite = url.startswith("sqlite")
        self.engine = _sqlite_engine(url) if self._sqlite else _postgresql_engine(url, pool_size, application_name)
        if not self._sqlite:
            _limit_statements(self.engine, pooler)
        self._pool_size = pool_size
        self._free_connections = threading.BoundedSemaphore(pool_size)
        self._thread = NativeThreads(1) if self._sqlite else None

    def run(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `work(connection, ...)` in one transaction; commit when it returns, roll back when it raises.

        `work` is called again after a deadlock or a serialization failure. Raises DatabaseUnavailable after SQL_TIMEOUT_SECONDS,
        DatabaseReadOnly, and Invalid for a value that the database cannot store.
        """
        return self.run_within(SQL_TIMEOUT_SECONDS, work, *args, **kwargs)

    def run_within(self, seconds: float, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._thread is not None:
            return self._thread.run(self._run_in_thread, time.monotonic() + seconds, work, args, kwargs)
        if seconds > SQL_TIMEOUT_SECONDS:
            work = partial(_with_statement_timeout, seconds, work)
        with cooperative.deadline(seconds), self._connection_slot():
            return self._transaction(work, args, kwargs)

    def close(self) -> None:
        self.engine.dispose()

    def _run_in_thread(self, deadline: float, work: Callable[..., T], args: Any, kwargs: Any) -> T:
        if time.monotonic() > deadline:  # the thread was busy for that long
            raise DatabaseUnavailable from NoFreeConnection("other statements of this process occupied SQLite for too long")
        return self._transaction(work, args, kwargs)

    def _transaction(self, work: Callable[..., T], args: Any, kwargs: Any, attempt: int = 1) -> T:
        try:
            with self.engine.begin() as connection:
                return _work_or_leave(connection, work, args, kwargs)
        except DisconnectionError as error:
            raise DatabaseUnavailable from error
        except DBAPIError as error:
            error_class = classify(error)
            if error_class in (ErrorClass.BUG, ErrorClass.CONSTRAINT):
                raise
            if error_class is not ErrorClass.CONFLICT or attempt == MAX_ATTEMPTS:
                raise _problem(error, error_class) from error
            log.info("transaction repeated after a conflict: %s", _message(error))
        return self._transaction(work, args, kwargs, attempt + 1)

    @contextmanager
    def _connection_slot(self) -> Iterator[None]:
        # The pool's own wait would not count towards the deadline of the transaction.
        started = time.monotonic()
        is_free = self._free_connections.acquire(timeout=cooperative.remaining_seconds())
        seconds = time.monotonic() - started
        metrics.database_pool_wait.observe(seconds)
        wait = f"all {self._pool_size} connections of this process were in use for {seconds:.1f} s: see DATABASE_POOL_SIZE"
        if not is_free:
            raise DatabaseUnavailable from NoFreeConnection(wait)
        metrics.database_connections_in_use.inc()
        try:
            yield
        except DatabaseUnavailable as error:
            if seconds > LONG_WAIT_SECONDS:  # the statement had little time left, so its time-out would mislead
                raise type(error) from NoFreeConnection(f"{wait}; then: {cause_of(error)}")
            raise
        finally:
            metrics.database_connections_in_use.dec()
            self._free_connections.release()


def is_read_only(connection: Connection) -> bool:
    """Return whether the server refuses changes."""
    found = connection.dialect.name == "postgresql" and connection.execute(text("SHOW transaction_read_only")).scalar() == "on"
    if found:
        _leave_server(connection)
    return found


def _work_or_leave(connection: Connection, work: Callable[..., T], args: Any, kwargs: Any) -> T:
    try:
        return work(connection, *args, **kwargs)
    except DBAPIError as error:
        if classify(error) is ErrorClass.READ_ONLY:
            _leave_server(connection)
        raise


def _leave_server(connection: Connection) -> None:
    """Close this connection to a read-only server and all idle ones, so that the next ones reach the new primary."""
    connection.detach()
    connection.engine.dispose()


def _problem(error: DBAPIError, error_class: ErrorClass) -> Problem:
    if error_class is ErrorClass.READ_ONLY:
        return DatabaseReadOnly()
    if error_class is not ErrorClass.DATA:
        return DatabaseUnavailable()
    column = column_of(error)
    log.warning("the database cannot store a value of %s: %s", column or "an unknown column", _message(error))
    message = "This value is too long, or the database cannot store it."
    return Invalid.field(column, message) if column else Invalid(message)


def _message(error: DBAPIError) -> str:
    return str(error.orig).partition("\n")[0]


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
    event.listen(engine, "checkout", _refuse_dead_connection)
    return engine


def _with_statement_timeout(seconds: float, work: Callable[..., T], connection: Connection, *args: Any, **kwargs: Any) -> T:
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
    return work(connection, *args, **kwargs)


def _limit_statements(engine: Engine, pooler: str | None) -> None:
    """Make the server cancel a statement when the client gives up; one that waits for a lock would occupy a backend for ever."""
    if pooler is None:
        event.listen(engine, "connect", _limit_connection)
    else:
        event.listen(engine, "before_cursor_execute", _limit_transaction, retval=True)


def _limit_connection(dbapi_connection: Any, _: Any) -> None:
    with dbapi_connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = {_STATEMENT_TIMEOUT_MS}")
    dbapi_connection.commit()


def _limit_transaction(_connection: Connection, cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    """Put the limit before the first statement of a transaction, in the same round trip. It ends with the transaction.

    A setting of the session would stay on a connection of PgBouncer, which other clients use afterwards.
    """
    if cursor.connection.status == extensions.STATUS_READY:  # psycopg2 sends BEGIN before this statement
        statement = f"SET LOCAL statement_timeout = {_STATEMENT_TIMEOUT_MS}; {statement}"
    return statement, parameters


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
