"""The database: whether it answers, has the current schema, and has enough connections for all processes."""

import math
import os
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, make_url, text

from app.core.config import Config
from app.core.errors import cause_of
from app.database.engine import Database, DatabaseUnavailable, is_read_only
from app.database.upgrade import find_schema_error
from app.operations.doctor.findings import Finding, fail, ok, warn

TIMEOUT_SECONDS = 5.0
TRANSACTIONS = 10  # on each of two connections, which a busy pooler may give different server processes once or twice
SLOW_MS = 50.0
NEARLY_FULL_MB, FULL_MB = 1000, 100
UPGRADE = "Run: flask --app wsgi schema upgrade"

# A connection is attributed by its application name: those of job workers end with "-worker".
_SESSIONS = text("SELECT application_name, count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1")
_LIMITS = text(
    "SELECT name, setting::int FROM pg_settings"
    " WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')"
)


def examine(config: Config, database: Database, instances: int | None) -> Generator[Finding, None, bool]:
    """Examine the database for this number of live instances, or None if it is unknown.

    Return whether the database answers and has a usable schema.
    """
    url = make_url(database.url)
    where = f"{url.host or 'a local socket'}:{url.port or 5432}/{url.database}"
    if database.url.startswith("sqlite"):
        return (yield from _embedded(database))
    try:
        started = time.perf_counter()
        database.run_within(TIMEOUT_SECONDS, is_read_only)
        connect_ms = (time.perf_counter() - started) * 1000
        started = time.perf_counter()
        read_only = database.run_within(TIMEOUT_SECONDS, is_read_only)
        query_ms = (time.perf_counter() - started) * 1000
        complaint = database.run_within(TIMEOUT_SECONDS, find_schema_error)
        limits, sessions = database.run_within(TIMEOUT_SECONDS, _connections)
        is_pooled = database.pooler is None and _shares_backends(database)
    except DatabaseUnavailable as error:
        yield _unavailable(where, error)
        return False
    answers = f"database answers: {query_ms:.1f} ms, {connect_ms:.0f} ms with a new connection, {where}"
    yield ok(answers) if query_ms <= SLOW_MS else warn(answers, "Move it closer to the instances, or reduce its load")
    yield _schema(complaint)
    if read_only:
        yield fail("database: it is read-only, for example a standby", "Set DATABASE_URL to the primary")
    if is_pooled:
        yield fail(
            "database: PgBouncer in transaction mode is in front of it, and DATABASE_POOLER is not set",
            "Set DATABASE_POOLER=transaction: without it, statement timeouts are lost or apply to other clients of PgBouncer",
        )
    if instances is None:
        yield warn(
            "database: the connection budget was not examined, because the number of instances is unknown",
            "Fix the findings about Redis first, then run the doctor again",
        )
    elif database.pooler or is_pooled:
        yield _pooled_connection_budget(config, instances)
    else:
        yield _connection_budget(config, instances, limits, sessions)
    return complaint is None and not read_only


def _embedded(database: Database) -> Generator[Finding, None, bool]:
    path = Path(make_url(database.url).database or "")
    if not path.is_file():
        yield fail(f"database: there is no file {path}", UPGRADE)
        return False
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        yield fail(f"database: {path} or its folder is not writable", "Make the user that runs the instance the owner of both")
        return False
    try:
        mode = database.run_within(TIMEOUT_SECONDS, lambda connection: connection.exec_driver_sql("PRAGMA journal_mode").scalar())
        complaint = database.run_within(TIMEOUT_SECONDS, find_schema_error)
    except DatabaseUnavailable as error:
        yield _unavailable(str(path), error)
        return False
    yield ok(f"database answers and is writable: {path}")
    if mode == "wal":
        yield ok("database: the write-ahead log (WAL) is in use")
    else:
        yield warn(
            f"database: the journal mode is {mode} instead of WAL",
            "Move the file to a local disk: the WAL of SQLite does not work on a network share",
        )
    yield _schema(complaint)
    yield _disk_space(path.parent)
    return complaint is None


def _unavailable(where: str, error: DatabaseUnavailable) -> Finding:
    cause = cause_of(error) or f"no answer within {TIMEOUT_SECONDS:g} s"
    return fail(
        f"database does not answer: {where}: {cause}",
        'Check that it runs and that DATABASE_URL is right: psql "$DATABASE_URL" -c "SELECT 1"',
    )


def _schema(complaint: str | None) -> Finding:
    if complaint is None:
        return ok("database: the schema is up to date")
    error, _, advice = complaint.partition("; ")
    return fail(f"database: {error}", advice[:1].upper() + advice[1:])


def _disk_space(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 1_000_000
    text = f"database: {free:,.0f} MB of disk space are free"
    advice = f"Free disk space at {folder}: nothing can be stored when it is full"
    if free < FULL_MB:
        return fail(text, advice)
    return warn(text, advice) if free < NEARLY_FULL_MB else ok(text)


def _connection_budget(config: Config, instances: int, limits: dict[str, int], sessions: dict[str, int]) -> Finding:
    """Compare what all processes may open with what the server allows to ordinary users, or with the stated limit."""
    pool = config.database_pool_size
    server_allows = limits["max_connections"] - sum(count for name, count in limits.items() if name != "max_connections")
    allowed = config.database_connection_limit or server_allows
    workers = sum(math.ceil(count / pool) for name, count in sessions.items() if name.endswith("-worker"))
    return _compare(
        pool,
        f"{instances} instances and {workers} workers x pool of {pool}",
        needed=pool * (instances + workers),
        allowed=allowed,
        limit="DATABASE_CONNECTION_LIMIT" if config.database_connection_limit else "the server",
        suffix=f"; {sum(sessions.values())} in use now",
    )


def _pooled_connection_budget(config: Config, instances: int) -> Finding:
    """Compare what the instances may open with the stated limit. PostgreSQL sees only the connections of the pooler."""
    pool, allowed = config.database_pool_size, config.database_connection_limit
    needs = f"{instances} instances x pool of {pool}"
    if allowed is None:
        return ok(
            f"database: connection budget: {needs} = {pool * instances}, and {pool} for each worker; not compared with the limit"
            " of PostgreSQL, because a pooler is in front of it, and DATABASE_CONNECTION_LIMIT is not set"
        )
    return _compare(
        pool,
        needs,
        needed=pool * instances,
        allowed=allowed,
        limit="DATABASE_CONNECTION_LIMIT",
        suffix="; workers are not counted behind a pooler",
    )


def _compare(pool: int, needs: str, *, needed: int, allowed: int, limit: str, suffix: str) -> Finding:
    text = f"database: connection budget: {needs} = {needed}, of {allowed} that {limit} allows{suffix}"
    advice = "Lower DATABASE_POOL_SIZE, run fewer instances, or raise max_connections of PostgreSQL"
    if limit == "DATABASE_CONNECTION_LIMIT":
        advice = "Lower DATABASE_POOL_SIZE, run fewer instances, or raise the limit of the server or pooler and this setting"
    if needed > allowed:
        return fail(text, advice)
    return (
        warn(f"{text}; there is no room for one more instance in a rolling restart", advice)
        if needed + pool > allowed
        else ok(text)
    )


def _shares_backends(database: Database) -> bool:
    """Return whether two connections got the same server process in turn: a pooler in transaction mode is in between."""
    with closing(Database(database.url, 1, "doctor")) as other:
        first, second = ({one.run(_backend_pid) for _ in range(TRANSACTIONS)} for one in (database, other))
    return bool(first & second)


def _backend_pid(connection: Connection) -> int:
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def _connections(connection: Connection) -> tuple[dict[str, int], dict[str, int]]:
    def counts(query: Any) -> Iterator[tuple[str, int]]:
        return ((name, count) for name, count in connection.execute(query))

    return dict(counts(_LIMITS)), dict(counts(_SESSIONS))
