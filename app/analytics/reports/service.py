"""Insights: what administrators read of what analytics has stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from app.analytics.reports import store
from app.analytics.reports.ranges import Range
from app.analytics.reports.store import Interval
from app.database.engine import Database

MOST_NAMES = 1000  # in a summary; its total is of all
TOP = 10
PATIENCE_SECONDS = 5.0  # the steps of many people in a whole year take their time


@dataclass(frozen=True)
class Summary:
    total_events: int
    by_name: dict[str, int]
    by_category: dict[str, int]
    series: list[Interval]


@dataclass(frozen=True)
class Overview:
    total_events: int
    series: list[Interval]
    pages: dict[str, int]
    names: dict[str, int]
    funnels: dict[str, list[tuple[str, int]]]  # step, people
    opted_out: int
    accounts: int
    has_events: bool  # of any time


class Insights:
    """Each answer is of one moment. `page_viewed` is the event of a page, `funnels` are steps by title."""

    def __init__(self, database: Database, page_viewed: str, funnels: Mapping[str, Sequence[str]]) -> None:
        self._database = database
        self._page_viewed = page_viewed
        self._funnels = funnels
        self._all_steps = [step for steps in funnels.values() for step in steps]

    def summary(self, asked: Range) -> Summary:
        return self._database.run_within(PATIENCE_SECONDS, self._summary, asked)

    def overview(self, asked: Range) -> Overview:
        return self._database.run_within(PATIENCE_SECONDS, self._overview, asked)

    def _summary(self, connection: Connection, asked: Range) -> Summary:
        store.one_moment(connection)
        series = store.series(connection, asked)
        return Summary(
            total_events=sum(interval.events for interval in series),
            by_name=store.by_name(connection, asked, MOST_NAMES),
            by_category=store.by_category(connection, asked, MOST_NAMES),
            series=series,
        )

    def _overview(self, connection: Connection, asked: Range) -> Overview:
        store.one_moment(connection)
        series = store.series(connection, asked)
        opted_out, accounts = store.opted_out(connection)
        return Overview(
            total_events=sum(interval.events for interval in series),
            series=series,
            pages=store.by_path(connection, asked, TOP, self._page_viewed),
            names=store.by_name(connection, asked, TOP),
            funnels={title: self._funnel(connection, asked, steps) for title, steps in self._funnels.items()},
            opted_out=opted_out,
            accounts=accounts,
            has_events=store.has_events(connection),
        )

    def _funnel(self, connection: Connection, asked: Range, steps: Sequence[str]) -> list[tuple[str, int]]:
        return list(zip(steps, store.funnel(connection, asked, steps, self._all_steps), strict=True))
