"""How long reading analytics takes, against plain aggregate queries over the events that give the same numbers.

.venv/bin/python -m bench.insights [--events 1000000]
"""

from __future__ import annotations

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
from app.analytics.reports import store as insights_store
from app.analytics.reports.ranges import Range, ceiling
from app.analytics.reports.service import TOP, Insights, Overview
from app.core.timestamps import DAY, floor, iso
from app.database.engine import Database
from bench import events
from harness.servers import Instance, PostgresServer, RedisServer, fleet_environment, migrate, promote
from harness.users import User

DAYS = 90
TIMES = 7
LONG_SECONDS = 900
SHOWN = (30, DAYS)

PLAIN = {
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


class Line(NamedTuple):
    what: str
    milliseconds: list[float]  # one for each of SHOWN


@contextmanager
def loaded(count: int, now: datetime) -> Iterator[tuple[Database, User]]:
    """Events in a database, and an administrator of an instance on it."""
    with RedisServer() as redis, PostgresServer() as postgres:
        url = postgres.create_database()
        environment = fleet_environment(redis.url, url, LOG_LEVEL="WARNING")
        migrate(environment)
        database = Database(url.replace("postgresql:", "postgresql+psycopg2:"), 2, "bench")
        database.run_within(LONG_SECONDS, events.store, count, floor(now, DAY) - timedelta(days=DAYS - 1), now)
        database.run_within(LONG_SECONDS, events.count_all)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"SET statement_timeout = {LONG_SECONDS * 1000}"))
            connection.execute(text("VACUUM ANALYZE"))  # as PostgreSQL does it by itself in time
        with Instance(environment) as instance:
            administrator = User(instance).register()
            promote(environment, administrator.email)
            yield database, administrator
        database.close()


def measure(count: int) -> list[Line]:
    now = datetime.now(UTC)
    with loaded(count, now) as (database, administrator):
        insights = Insights(database, PAGE_VIEWED, FUNNELS)
        until = ceiling(now, DAY)
        ranges = [Range(until - timedelta(days=days), until, DAY) for days in SHOWN]
        cut = [Range(asked.since + timedelta(hours=5.4321), now - timedelta(hours=3.21), DAY) for asked in ranges]
        for asked in [*ranges, *cut]:
            expect_the_same(insights.overview(asked), plainly(database, asked))
        steps = [step for taken in FUNNELS.values() for step in taken]
        return [
            Line("plain aggregate queries", medians(lambda asked: plainly(database, asked), ranges)),
            Line("the page’s whole reading", medians(insights.overview, ranges)),
            Line("– its funnels alone", medians(lambda asked: read_funnels(database, asked, steps), ranges)),
            Line("– of a range cut within hours", medians(insights.overview, cut)),
            Line("the summary’s reading", medians(insights.summary, ranges)),
            Line("`GET /admin/analytics`", medians(lambda asked: get(administrator, page_of(asked)), ranges)),
            Line("`GET /api/analytics/summary`", medians(lambda asked: get(administrator, summary_of(asked)), ranges)),
        ]


def plainly(database: Database, asked: Range) -> dict[str, list[Any]]:
    values = {"since": asked.since, "until": asked.until, "top": TOP, "viewed": PAGE_VIEWED}

    def read(connection: Connection) -> dict[str, list[Any]]:
        return {name: [tuple(row) for row in connection.execute(text(query), values)] for name, query in PLAIN.items()}

    return database.run_within(LONG_SECONDS, read)


def expect_the_same(overview: Overview, plain: dict[str, list[Any]]) -> None:
    series = [(interval.start, interval.events, interval.visitors) for interval in overview.series if interval.events]
    found = {"by day": series, "by name": [*overview.names.items()], "by path": [*overview.pages.items()]}
    if found != plain:
        raise click.ClickException("the numbers differ")


def read_funnels(database: Database, asked: Range, steps: list[str]) -> None:
    def read(connection: Connection) -> None:
        for taken in FUNNELS.values():
            insights_store.funnel(connection, asked, taken, steps)

    database.run(read)


def page_of(asked: Range) -> str:
    return f"/admin/analytics?from={asked.since.date()}&to={(asked.until - timedelta(days=1)).date()}"


def summary_of(asked: Range) -> str:
    return f"/api/analytics/summary?from={iso(asked.since)}&to={iso(asked.until)}"


def get(user: User, path: str) -> None:
    user.get(path).raise_for_status()


def medians(work: Callable[[Range], object], ranges: list[Range]) -> list[float]:
    """Milliseconds. The first time of each does not count."""
    return [statistics.median([_timed(work, asked) for _ in range(1 + TIMES)][1:]) for asked in ranges]


def _timed(work: Callable[[Range], object], asked: Range) -> float:
    started = time.perf_counter()
    work(asked)
    return 1000 * (time.perf_counter() - started)


def table(lines: list[Line]) -> str:
    """Markdown. The ratios are to the first line."""
    heads = [f"{days} days, ms | plain ÷ this" for days in SHOWN]
    rows = [f"| {line.what} | {' | '.join(_cells(line, lines[0]))} |" for line in lines]
    return "\n".join([f"| | {' | '.join(heads)} |", "|---|" + "---:|" * 2 * len(SHOWN), *rows])


def _cells(line: Line, plain: Line) -> list[str]:
    return [
        f"{taken:,.1f} | {of_plain / taken:,.1f}" for taken, of_plain in zip(line.milliseconds, plain.milliseconds, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    count = parser.parse_args().events
    click.echo(f"{count:,} events over {DAYS} days, PostgreSQL, median of {TIMES}\n\n{table(measure(count))}")


if __name__ == "__main__":
    main()
