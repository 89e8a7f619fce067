"""Reports for administrators about the stored events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from app.analytics.reports import store
from app.analytics.reports.ranges import TimeRange
from app.analytics.reports.store import IntervalCount
from app.database.engine import Database

MAX_NAMES = 1000  # in a summary; its total counts all
TOP = 10
TIMEOUT_SECONDS = 5.0  # funnels over a year with many people are slow


@dataclass(frozen=True)
class Summary:
    total_events: int
    by_name: dict[str, int]
    by_category: dict[str, int]
    series: list[IntervalCount]


@dataclass(frozen=True)
class Overview:
    total_events: int
    series: list[IntervalCount]
    pages: dict[str, int]
    names: dict[str, int]
    funnels: dict[str, list[tuple[str, int]]]  # title: (step, people)
    opted_out: int
    accounts: int
    has_events: bool  # at any time


class AnalyticsReports:
    """Each report reads one snapshot of the database, so that its numbers are consistent.

    `page_viewed` is the name of the page view event; `funnels` maps titles to the names of their steps.
    """

    def __init__(self, database: Database, page_viewed: str, funnels: Mapping[str, Sequence[str]]) -> None:
        self._database = database
        self._page_viewed = page_viewed
        self._funnels = funnels
        self._all_steps = [step for steps in funnels.values() for step in steps]

    def summary(self, time_range: TimeRange) -> Summary:
        return self._database.run_within(TIMEOUT_SECONDS, self._summary, time_range)

    def overview(self, time_range: TimeRange) -> Overview:
        return self._database.run_within(TIMEOUT_SECONDS, self._overview, time_range)

    def _summary(self, connection: Connection, time_range: TimeRange) -> Summary:
        store.read_snapshot(connection)
        series = store.series(connection, time_range)
        return Summary(
            total_events=sum(interval.events for interval in series),
            by_name=store.by_name(connection, time_range, MAX_NAMES),
            by_category=store.by_category(connection, time_range, MAX_NAMES),
            series=series,
        )

    def _overview(self, connection: Connection, time_range: TimeRange) -> Overview:
        store.read_snapshot(connection)
        series = store.series(connection, time_range)
        opted_out, accounts = store.count_opted_out(connection)
        return Overview(
            total_events=sum(interval.events for interval in series),
            series=series,
            pages=store.by_path(connection, time_range, TOP, self._page_viewed),
            names=store.by_name(connection, time_range, TOP),
            funnels={title: self._funnel(connection, time_range, steps) for title, steps in self._funnels.items()},
            opted_out=opted_out,
            accounts=accounts,
            has_events=store.has_events(connection),
        )

    def _funnel(self, connection: Connection, time_range: TimeRange, steps: Sequence[str]) -> list[tuple[str, int]]:
        return list(zip(steps, store.funnel(connection, time_range, steps, self._all_steps), strict=True))
