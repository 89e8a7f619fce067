"""The queries of periodic tasks: the planner's costs grow no faster than the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.event import listen, remove

from app.analytics import store as analytics
from app.analytics.exports import store as exports
from app.database.engine import Database
from app.fleet import sql_heartbeat
from app.fleet.sql_heartbeat import SqlHeartbeat
from app.notifications import channel_store as channels
from app.notifications import store as notifications
from app.repositories import store as repositories
from app.sessions import sql_store
from harness.scale import count
from harness.schema import open_database
from harness.servers import PostgresServer

SMALL, LARGE = count(3_000, 10_000), count(30_000, 100_000)  # rows of each table
MAX_GROWTH = 1.3 * LARGE / SMALL  # sorting grows a little faster than the rows
MIN_COST = LARGE / 200  # of the planner; below that, the costs are mostly constant

QUADRATIC = """
    DELETE FROM notifications a WHERE 1000 <= (SELECT count(*) FROM notifications b WHERE b.user_id = a.user_id AND b.seq > a.seq)
    AND (SELECT count(*) FROM notifications c WHERE c.created_at < a.created_at) > 0
"""

OLDEST = datetime.now(UTC).replace(hour=12, minute=30) - timedelta(days=30)
LONG_AGO = OLDEST - timedelta(days=365)

# Rows from :first to :last, without those that only foreign keys need. Half of them are old, as after a change of the retention
# period or a pause of all workers.
FILL = """
SET LOCAL session_replication_role = replica;
SET LOCAL jit = off;
SET LOCAL default_statistics_target = 10;
INSERT INTO sessions (key, user_id, created_at, expires_at)
  SELECT 'session:' || n, n, now(), now() + interval '1 second' * (:middle - n) FROM generate_series(:first, :last) n;
INSERT INTO inboxes (user_id, head, read_up_to) SELECT n, 10, 0 FROM generate_series(:first, :last) n
  ON CONFLICT DO NOTHING;
UPDATE inboxes SET head = 1500 WHERE user_id BETWEEN :first / 1500 + 1 AND :last / 1500;
INSERT INTO notifications (user_id, seq, type, title, data, created_at)
  SELECT n / 1500 + 1, n % 1500 + 1, 'message', 'news', '{}', now() - interval '8 days' FROM generate_series(:first, :last - 1) n;
INSERT INTO repositories (id, url, name, created_at, due_at)
  SELECT n, 'https://example.org/' || n, 'name', now(), now() + interval '1 second' * (n - :middle)
  FROM generate_series(:first, :last) n;
INSERT INTO analyses (id, repository_id, status, progress, step, attempts, requested_at, dispatched_at, finished_at)
  SELECT n, n, CASE WHEN n % 2 = 0 THEN 'queued' ELSE 'succeeded' END, 0, '', 0, now() - interval '1 hour',
    now() - interval '1 hour', CASE WHEN n % 2 = 0 THEN NULL ELSE now() END FROM generate_series(:first, :last) n;
INSERT INTO heartbeats (nonce, instance_id, is_ready, seen_at)
  SELECT n, 'i', true, now() - interval '1 second' * (n * 7200 / :last) FROM generate_series(:first, :last) n;
INSERT INTO analytics_people (pseudonym, opted_out, version, created_at)
  SELECT 'v' || n, false, 0, now() - interval '14 days' * n / :last FROM generate_series(:first, :last) n;
INSERT INTO analytics_events (person, event_id, name, category, path, properties, occurred_at)
  SELECT 'v' || n % 100, n, 'kind', 'test', '/' || n % 50, '{}', :oldest + interval '1 minute' * (n - :middle)
  FROM generate_series(:first, :last) n;
INSERT INTO analytics_visits (grain, start, person)
  SELECT grain, date_trunc(grain, :oldest + interval '1 minute' * (n - :middle), 'UTC'), 'v' || n % 100
  FROM generate_series(:first, :last) n, unnest(ARRAY['hour', 'day']) grain ON CONFLICT DO NOTHING;
INSERT INTO analytics_visitors (grain, start, visitors)
  SELECT grain, start, count(*) FROM analytics_visits GROUP BY 1, 2 ON CONFLICT DO NOTHING;
INSERT INTO analytics_rollups (grain, start, name, category, path, events)
  SELECT grain, date_trunc(grain, occurred_at, 'UTC'), name, category, path, count(*)
  FROM analytics_events, unnest(ARRAY['hour', 'day']) grain GROUP BY 1, 2, 3, 4, 5 ON CONFLICT DO NOTHING;
INSERT INTO analytics_exports
  (id, user_id, since, until, status, progress, rows, attempts, requested_at, dispatched_at, finished_at)
  SELECT n, 1, now(), now(), CASE WHEN n % 3 = 0 THEN 'failed' ELSE 'succeeded' END, 100, 0, 1,
    now() - interval '1 day' * (n % 14), now(), now() FROM generate_series(:first, :last) n;
INSERT INTO analytics_export_parts (export_id, number, content) SELECT n, 0, '' FROM generate_series(:first, :last) n;
INSERT INTO notification_channels (id, user_id, kind, created_at, next_at, failures, secret)
  SELECT n, n, 'webhook', now(), CASE WHEN n % 10 = 0 AND n <= :last / 20 THEN now() - interval '1 second' * (n % 100) END, 0, ''
  FROM generate_series(:first, :last) n;
INSERT INTO notification_deliveries (id, channel_id, seq, due_at, attempts, finished_at)
  SELECT n, n / 20 + 1, n, now(), 0, CASE WHEN n % 10 > 0 THEN now() - interval '1 day' * (n % 14) END
  FROM generate_series(:first, :last) n;
ANALYZE;
"""

Costs = dict[str, float]  # statement -> total cost that the planner estimates


def estimate(connection: Any, statement: str, parameters: Any = None) -> float:
    """Return the planner's cost of a statement, which is not executed."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
        return float(cursor.fetchone()[0][0]["Plan"]["Total Cost"])


@contextmanager
def explained(database: Database) -> Iterator[Costs]:
    """Explain each statement before it is executed."""
    costs: Costs = {}

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if not statement.startswith("SET"):
            costs[statement] = max(estimate(cursor.connection, statement, parameters), costs.get(statement, 0.0))

    listen(database.engine, "before_cursor_execute", explain)
    try:
        yield costs
    finally:
        remove(database.engine, "before_cursor_execute", explain)


class RolledBack(Exception):
    pass


def measure(database: Database, work: Callable[[Connection], object]) -> Costs:
    """Run a transaction, roll it back, and return the costs of its statements."""

    def run(connection: Connection) -> None:
        work(connection)
        raise RolledBack

    with explained(database) as costs, pytest.raises(RolledBack):
        database.run_within(30, run)
    return costs


TASKS: dict[str, Callable[[Connection], object]] = {
    "notifications": partial(notifications.purge_next, after_user=0, users=200, limit=2000),
    "all notifications": partial(notifications.purge, limit=2000),
    "analytics": partial(analytics.purge_batch, oldest=OLDEST, limit=analytics.PURGE_BATCH),
    "analytics without old events": partial(
        analytics.purge_batch, oldest=OLDEST - timedelta(days=365), limit=analytics.PURGE_BATCH
    ),
    "exports": partial(exports.purge, limit=50),
    "deliveries": partial(channels.purge, limit=500),
    "due deliveries": partial(channels.claim, failing_too=True),
    "secrets of channels": partial(channels.secrets_after, channel_id=0, limit=500),
    "due analyses": partial(repositories.list_due, limit=100),
    "lost analyses": partial(repositories.leases.take_lost, limit=100),
    "lost exports": partial(exports.leases.take_lost, limit=100),
    "sql heartbeat": partial(sql_heartbeat.record, own=SqlHeartbeat("own", "own", True)),
    "expired sessions": lambda connection: sql_store._create(connection, "session:new", {}, 1, None, None),
}


class Measured(NamedTuple):
    few: dict[str, Costs]  # of each task, with SMALL rows
    many: dict[str, Costs]  # with LARGE rows
    quadratic: list[float]  # the costs of QUADRATIC


@pytest.fixture(scope="module")
def measured(postgres_server: PostgresServer) -> Iterator[Measured]:
    url = postgres_server.create_database()
    database = open_database(url)
    found = Measured({}, {}, [])
    for costs, first, last in (found.few, 1, SMALL), (found.many, SMALL + 1, LARGE):
        fill(database, first, last)
        costs |= {name: measure(database, work) for name, work in TASKS.items()}
        found.quadratic.append(database.run(lambda connection: estimate(connection.connection, QUADRATIC)))
    yield found
    database.close()
    postgres_server.drop_database(url)


def fill(database: Database, first: int, last: int) -> None:
    values = {"first": first, "last": last, "middle": last // 2, "oldest": OLDEST}

    def run(connection: Connection) -> None:
        for statement in FILL.split(";\n"):
            if statement.strip():
                connection.execute(text(statement), values)

    database.run_within(60, run)


@pytest.mark.parametrize("task", TASKS)
def test_cost_grows_no_faster_than_the_rows(measured: Measured, task: str) -> None:
    few, many = measured.few[task], {one: cost for one, cost in measured.many[task].items() if cost > MIN_COST}
    assert {one: (few.get(one), cost) for one, cost in many.items() if cost > MAX_GROWTH * few.get(one, 0.0)} == {}


def test_quadratic_query_would_be_noticed(measured: Measured) -> None:
    """The negative control."""
    few, many = measured.quadratic
    assert many > MAX_GROWTH * few
