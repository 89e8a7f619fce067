"""An instance and a worker behind PgBouncer in transaction mode, which is paused, frozen, restarted and exhausted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
from sqlalchemy import Connection, text

from app.core import config
from app.core.errors import cause_of
from app.database.engine import Database, DatabaseUnavailable
from app.database.upgrade import find_schema_error, upgrade
from app.operations.doctor.database import examine
from harness.fleet import NO_RATE_LIMITS, start_together
from harness.lateness import time_limit
from harness.pgbouncer import PgBouncer
from harness.repositories import Commit, build
from harness.scale import count, full_only
from harness.servers import (
    Instance,
    PostgresServer,
    RedisServer,
    Worker,
    flask,
    fleet_environment,
    promote,
    wait_until,
)
from harness.users import User

QUICK_SECONDS = 2.0
RECOVERY_SECONDS = 5.0
SLEEP_SECONDS = 60.0  # of a statement that is ended before
POOL_SIZE = 2  # connections of PgBouncer to PostgreSQL; the instance and the worker may open ten to PgBouncer
# PgBouncer itself sets the application name for each client.
SESSION_STATE = """
SELECT 'setting ' || name FROM pg_settings WHERE source = 'session' AND name <> 'application_name'
UNION ALL SELECT 'prepared statement ' || name FROM pg_prepared_statements
UNION ALL SELECT 'cursor ' || name FROM pg_cursors
UNION ALL SELECT 'channel ' || channel FROM pg_listening_channels() AS channel
UNION ALL SELECT 'temporary table ' || relname FROM pg_class WHERE relpersistence = 't' AND pg_table_is_visible(oid)
UNION ALL SELECT 'advisory lock' FROM pg_locks WHERE locktype = 'advisory'
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer(password="only-for-this-test") as server:
        yield server


@pytest.fixture(scope="module")
def pooler(postgres: PostgresServer) -> Iterator[PgBouncer]:
    with PgBouncer(postgres, default_pool_size=str(POOL_SIZE)) as pooler:
        yield pooler


class PooledFleet:
    """One instance and one worker that reach their database only through PgBouncer."""

    def __init__(self, postgres: PostgresServer, pooler: PgBouncer, roots: Path) -> None:
        self.postgres, self.pooler, self.roots = postgres, pooler, roots
        self.direct_url = postgres.create_database()
        self._stack = ExitStack()

    def __enter__(self) -> PooledFleet:
        with self._stack:
            redis = self._stack.enter_context(RedisServer())
            settings = NO_RATE_LIMITS | {"DATABASE_POOLER": "transaction", "REPOSITORY_ROOTS": str(self.roots)}
            self.environment = fleet_environment(redis.url, self.pooler.url(self.direct_url), **settings)
            self.instance = Instance(self.environment | {"INSTANCE_ID": "instance-1"})
            start_together(self._stack, [self.instance, Worker(self.environment)])
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def fleet(postgres: PostgresServer, pooler: PgBouncer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PooledFleet]:
    with PooledFleet(postgres, pooler, tmp_path_factory.mktemp("roots")) as fleet:
        yield fleet


@contextmanager
def database(pooler: PgBouncer, url: str, *, limits_transactions: bool = True) -> Iterator[Database]:
    through = pooler.url(url).replace("postgresql:", "postgresql+psycopg2:")
    with closing(Database(through, 1, "test", pooler="transaction" if limits_transactions else None)) as found:
        yield found


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Execute a statement as another program would, which sets nothing."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def statement_timeout(connection: Connection) -> str:
    return str(connection.execute(text("SHOW statement_timeout")).scalar_one())


def sleep(connection: Connection, seconds: float) -> None:
    connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})


def sleep_beyond_limit(connection: Connection) -> None:
    connection.exec_driver_sql("SET LOCAL statement_timeout = 100")
    sleep(connection, SLEEP_SECONDS)


def test_limits_hold_for_each_transaction_and_leave_nothing_behind(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    with PgBouncer(postgres, default_pool_size="1") as pooler, database(pooler, url) as ours:
        assert ours.run(statement_timeout) == "1200ms"
        assert ours.run_within(30, statement_timeout) == "30s"
        assert ours.run(statement_timeout) == "1200ms"
        with pytest.raises(DatabaseUnavailable) as raised:
            ours.run(sleep_beyond_limit)
        assert "statement timeout" in str(cause_of(raised.value))
        assert rows(pooler.url(url), "SHOW statement_timeout") == [("0",)]
        assert rows(pooler.url(url), SESSION_STATE) == []
        with database(pooler, url, limits_transactions=False) as careless:
            careless.run(statement_timeout)
        assert rows(pooler.url(url), "SHOW statement_timeout") == [("1200ms",)], (
            "the same server connection, with a limit that stuck"
        )


def test_server_ends_a_statement_that_the_client_gave_up(postgres: PostgresServer, pooler: PgBouncer) -> None:
    def ended() -> int:
        return postgres.log().count("canceling statement due to statement timeout")

    before = ended()
    with database(pooler, postgres.create_database()) as ours, pytest.raises(DatabaseUnavailable):
        ours.run_within(0.5, sleep, SLEEP_SECONDS)
    wait_until(lambda: ended() > before, timeout=SLEEP_SECONDS / 2, what="the statement to end")


def test_schema_upgrade(postgres: PostgresServer, pooler: PgBouncer) -> None:
    url = postgres.create_empty_database()
    with database(pooler, url) as one, database(pooler, url) as two, ThreadPoolExecutor(2) as executor:
        assert list(executor.map(upgrade, [one, two])) == [None, None]
        assert one.run(find_schema_error) is None
    assert rows(pooler.url(url), SESSION_STATE) == []


def timed(user: User, method: str, path: str, **options: Any) -> httpx.Response:
    with time_limit(QUICK_SECONDS, path):
        return user.request(method, path, **options)


def wait_for_service(user: User) -> None:
    with time_limit(RECOVERY_SECONDS, "recovery"):
        wait_until(lambda: user.get("/api/auth/me").status_code == 200, what="the service to return")


def test_features_work_with_two_server_connections(fleet: PooledFleet) -> None:
    user = User(fleet.instance).register()
    promote({"DATABASE_URL": fleet.direct_url}, user.email)
    build(fleet.roots / "small", [Commit(1_700_000_000, files={b"README.md": b"# Small\n"})])
    analysis = user.post("/api/repositories", url=str(fleet.roots / "small")).json()["analysis"]["id"]
    ordered = {"from": "2026-01-01", "to": "2026-01-02", "format": "csv"}
    export = user.post("/api/analytics/exports", **ordered).json()["job"]["id"]
    events = [{"name": "page_viewed", "category": "navigation", "properties": {"path": "/"}}]
    assert user.post("/api/analytics/events", events=events).json()["accepted"] == 1

    analysed = f"SELECT 1 FROM analyses WHERE id = {analysis} AND status = 'succeeded'"  # noqa: S608
    wait_until(lambda: rows(fleet.direct_url, analysed), what="the analysis")
    wait_until(lambda: user.get(f"/api/analytics/exports/{export}").status_code == 200, what="the export")
    wait_until(lambda: rows(fleet.direct_url, "SELECT 1 FROM analytics_events"), what="the event to be stored")
    types = {item["type"] for item in user.get("/api/notifications").json()["items"]}
    assert "export.ready" in types
    assert user.get("/health").json()["checks"]["database"]["status"] == "pass"
    assert rows(fleet.pooler.url(fleet.direct_url), SESSION_STATE) == []


def test_many_clients_share_two_server_connections(fleet: PooledFleet) -> None:
    users = [User(fleet.instance) for _ in range(count(small=10, full=60))]
    users[0].register()
    for user in users[1:]:
        user.client.cookies.update(users[0].client.cookies)
    with ThreadPoolExecutor(len(users)) as executor:
        statuses = list(executor.map(lambda user: timed(user, "GET", "/api/auth/me").status_code, users * 3))
    assert set(statuses) == {200}
    application = f"datname = '{fleet.direct_url.rpartition('/')[2]}' AND pid <> pg_backend_pid()"
    assert rows(fleet.direct_url, f"SELECT count(*) FROM pg_stat_activity WHERE {application}")[0][0] <= POOL_SIZE  # noqa: S608


@contextmanager
def interrupted(pooler: PgBouncer, how: str) -> Iterator[None]:
    actions: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "paused": (lambda: pooler.administer("PAUSE"), lambda: pooler.administer("RESUME")),
        "frozen": (pooler.freeze, pooler.resume),
        "killed": (pooler.kill, pooler.start),
    }
    begin, end = actions[how]
    begin()
    try:
        yield
    finally:
        end()


@pytest.mark.parametrize("how", ["paused", "frozen", "killed"])
def test_service_returns_after_an_interruption_of_pgbouncer(fleet: PooledFleet, how: str) -> None:
    user = User(fleet.instance).register()
    with interrupted(fleet.pooler, how):
        for _ in range(2):
            answer = timed(user, "GET", "/api/auth/me")
            assert (answer.status_code, answer.headers.get("Retry-After", "") > "") == (503, True)
        assert timed(User(fleet.instance), "GET", "/").status_code == 200
    wait_for_service(user)


def test_transactions_that_occupy_all_server_connections_do_not_hang_others(fleet: PooledFleet) -> None:
    user = User(fleet.instance).register()
    with ExitStack() as stack:
        for _ in range(POOL_SIZE):
            connection = stack.enter_context(closing(psycopg2.connect(fleet.pooler.url(fleet.direct_url))))
            stack.enter_context(connection.cursor()).execute("SELECT 1")  # an open transaction
        assert timed(user, "GET", "/api/auth/me").status_code == 503
    wait_for_service(user)


def findings(environment: dict[str, str]) -> dict[str, list[str]]:
    """Return the texts of what the doctor finds about the database, by status."""
    settings = config.load(environment)
    found: dict[str, list[str]] = {"ok": [], "warn": [], "fail": []}
    with closing(Database(settings.database_url, 1, "doctor", pooler=settings.database_pooler)) as ours:
        for finding in examine(settings, ours, instances=1):
            found[finding.status].append(finding.text)
    return found


def test_doctor_knows_the_pooler(postgres: PostgresServer, pooler: PgBouncer) -> None:
    direct = fleet_environment("redis://127.0.0.1", postgres.create_database())
    pooled = direct | {"DATABASE_URL": pooler.url(direct["DATABASE_URL"])}
    assert findings(direct)["fail"] == []
    assert findings(pooled)["fail"] == [
        "database: PgBouncer in transaction mode is in front of it, and DATABASE_POOLER is not set"
    ]

    pooled["DATABASE_POOLER"] = "transaction"
    found = findings(pooled)
    assert found["fail"] == []
    assert "not compared with the limit of PostgreSQL, because a pooler is in front of it" in found["ok"][-1]
    stated = findings(pooled | {"DATABASE_CONNECTION_LIMIT": "10"})
    assert "1 instances x pool of 5 = 5, of 10 that DATABASE_CONNECTION_LIMIT allows" in stated["ok"][-1]
    assert len(findings(pooled | {"DATABASE_CONNECTION_LIMIT": "4"})["fail"]) == 1


@full_only
def test_commands_work(fleet: PooledFleet) -> None:
    assert "database: the schema is up to date" in flask(fleet.environment, "doctor", "--url", fleet.instance.url)
    assert "up to date" in flask(fleet.environment, "schema", "upgrade")
    assert rows(fleet.pooler.url(fleet.direct_url), SESSION_STATE) == []
