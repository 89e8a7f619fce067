"""The time to read analytics reports, compared with aggregate queries over the events that return the same numbers.

.venv/bin/python -m bench.reports [--events 1000000]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import click
from sqlalchemy import Connection, text

from app.analytics.catalogue import FUNNELS, PAGE_VIEWED
from app.analytics.reports import store as reports_store
from app.analytics.reports.ranges import TimeRange, ceiling
from app.analytics.reports.service import TOP, AnalyticsReports, Overview
from app.core.timestamps import DAY, floor, iso
from app.database.engine import Database
from bench import events
from harness.servers import Instance, PostgresServer, RedisServer, fleet_environment, migrate, promote
from harness.users import User

DAYS = 90
REPEATS = 7
TIMEOUT_SECONDS = 900
RANGE_DAYS = (30, DAYS)

AGGREGATES = {
    "by day": """
        SELECT date_trunc('day', occurred_at, 'UTC'), count(*), count(DISTINCT person) FROM analytics_events
        WHERE occurred_at >= :since AND occurred_at < :until GROUP BY 1 ORDER BY 1""",
    "by name": """
        SELECT name, count(*) FROM analytics_events
        WHERE occurred_at >= :since AND occurred_at < :until GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT :top""",
    "by path": """
        SELECT path, count(*) FROM analytics_events
        WHERE occurred_at >= :since AND occurred_at < :until AND name = :viewed GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT :top""",
}


class Timing(NamedTuple):
    what: str
    milliseconds: list[float]  # for each of RANGE_DAYS


@contextmanager
def loaded(count: int, now: datetime) -> Iterator[tuple[Database, User]]:
    """Yield a database with events, and an administrator of an instance that uses it."""
    with RedisServer() as redis, PostgresServer() as postgres:
        url = postgres.create_database()
        environment = fleet_environment(redis.url, url, LOG_LEVEL="WARNING")
        migrate(environment)
        database = Database(url.replace("postgresql:", "postgresql+psycopg2:"), 2, "bench")
        database.run_within(TIMEOUT_SECONDS, events.store, count, floor(now, DAY) - timedelta(days=DAYS - 1), now)
        database.run_within(TIMEOUT_SECONDS, events.count_all)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"SET statement_timeout = {TIMEOUT_SECONDS * 1000}"))
            connection.execute(text("VACUUM ANALYZE"))  # PostgreSQL's autovacuum would do it later
        with Instance(environment) as instance:
            administrator = User(instance).register()
            promote(environment, administrator.email)
            yield database, administrator
        database.close()


def measure(count: int) -> list[Timing]:
    now = datetime.now(UTC)
    with loaded(count, now) as (database, administrator):
        reports = AnalyticsReports(database, PAGE_VIEWED, FUNNELS)
        until = ceiling(now, DAY)
        ranges = [TimeRange(until - timedelta(days=days), until, DAY) for days in RANGE_DAYS]
        unaligned = [TimeRange(asked.since + timedelta(hours=5.4321), now - timedelta(hours=3.21), DAY) for asked in ranges]
        for asked in [*ranges, *unaligned]:
            assert_equal(reports.overview(asked), run_aggregates(database, asked))
        steps = [step for taken in FUNNELS.values() for step in taken]
        return [
            Timing("aggregate queries", medians(lambda asked: run_aggregates(database, asked), ranges)),
            Timing("all data of the page", medians(reports.overview, ranges)),
            Timing("– its funnels only", medians(lambda asked: read_funnels(database, asked, steps), ranges)),
            Timing("– of a range that does not begin and end at full hours", medians(reports.overview, unaligned)),
            Timing("all data of the summary", medians(reports.summary, ranges)),
            Timing("`GET /admin/analytics`", medians(lambda asked: get(administrator, page_of(asked)), ranges)),
            Timing("`GET /api/analytics/summary`", medians(lambda asked: get(administrator, summary_of(asked)), ranges)),
        ]


def run_aggregates(database: Database, asked: TimeRange) -> dict[str, list[Any]]:
    values = {"since": asked.since, "until": asked.until, "top": TOP, "viewed": PAGE_VIEWED}

    def read(connection: Connection) -> dict[str, list[Any]]:
        return {name: [tuple(row) for row in connection.execute(text(query), values)] for name, query in AGGREGATES.items()}

    return database.run_within(TIMEOUT_SECONDS, read)


def assert_equal(overview: Overview, plain: dict[str, list[Any]]) -> None:
    series = [(interval.start, interval.events, interval.visitors) for interval in overview.series if interval.events]
    found = {"by day": series, "by name": [*overview.names.items()], "by path": [*overview.pages.items()]}
    if found != plain:
        raise click.ClickException("the reports and the aggregate queries return different numbers")


def read_funnels(database: Database, asked: TimeRange, steps: list[str]) -> None:
    def read(connection: Connection) -> None:
        for taken in FUNNELS.values():
            reports_store.funnel(connection, asked, taken, steps)

    database.run(read)


def page_of(asked: TimeRange) -> str:
    return f"/admin/analytics?from={asked.since.date()}&to={(asked.until - timedelta(days=1)).date()}"


def summary_of(asked: TimeRange) -> str:
    return f"/api/analytics/summary?from={iso(asked.since)}&to={iso(asked.until)}"


def get(user: User, path: str) -> None:
    user.get(path).raise_for_status()


def medians(work: Callable[[TimeRange], object], ranges: list[TimeRange]) -> list[float]:
    """Return milliseconds. The first call of each is not counted."""
    return [statistics.median([_timed(work, asked) for _ in range(1 + REPEATS)][1:]) for asked in ranges]


def _timed(work: Callable[[TimeRange], object], asked: TimeRange) -> float:
    started = time.perf_counter()
    work(asked)
    return 1000 * (time.perf_counter() - started)


def table(lines: list[Timing]) -> str:
    """Return a Markdown table with ratios to the first line."""
    heads = [f"{days} days, ms | aggregate queries ÷ this" for days in RANGE_DAYS]
    rows = [f"| {line.what} | {' | '.join(_cells(line, lines[0]))} |" for line in lines]
    return "\n".join([f"| | {' | '.join(heads)} |", "|---|" + "---:|" * 2 * len(RANGE_DAYS), *rows])


def _cells(line: Timing, plain: Timing) -> list[str]:
    return [
        f"{milliseconds:,.1f} | {of_plain / milliseconds:,.1f}"
        for milliseconds, of_plain in zip(line.milliseconds, plain.milliseconds, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    count = parser.parse_args().events
    click.echo(f"{count:,} events over {DAYS} days, PostgreSQL, median of {REPEATS}\n\n{table(measure(count))}")


if __name__ == "__main__":
    main()
