from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.analytics.catalogue import FUNNELS, PAGE_VIEWED
from app.analytics.reports import service, store
from app.analytics.reports.ranges import TimeRange
from app.analytics.reports.service import AnalyticsReports
from app.core.timestamps import DAY
from app.database.engine import Database
from harness.recorded import event, random_events, record

FIRST = datetime(2025, 10, 1, tzinfo=UTC)
WEEK = TimeRange(FIRST, FIRST + timedelta(days=7), DAY)


def reports(database: Database) -> AnalyticsReports:
    return AnalyticsReports(database, PAGE_VIEWED, FUNNELS)


def test_numbers_of_a_summary_are_consistent(both: Database) -> None:
    record(both, *random_events(500, WEEK.since, WEEK.until))
    summary = reports(both).summary(WEEK)
    assert summary.total_events == 500
    assert sum(summary.by_name.values()) == sum(summary.by_category.values()) == 500
    assert [interval.events for interval in summary.series if not interval.events] == []
    assert len(summary.series) == 7


def test_total_includes_names_beyond_the_limit(both: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_NAMES", 2)
    record(both, *[event(f"name {number}", FIRST) for number in range(5)])
    summary = reports(both).summary(WEEK)
    assert (summary.total_events, len(summary.by_name)) == (5, 2)


def test_overview_counts_everything(both: Database) -> None:
    record(
        both,
        *[event(PAGE_VIEWED, FIRST, f"visitor {number}", "/") for number in range(3)],
        event("sign_up_opened", FIRST, "visitor 1"),
        event("signed_up", FIRST, "visitor 1"),
        event("sign_up_opened", FIRST, "visitor 2"),
    )
    overview = reports(both).overview(WEEK)
    assert overview.total_events == 6
    assert (overview.series[0].events, overview.series[0].visitors, overview.series[1].events) == (6, 3, 0)
    assert overview.pages == {"/": 3}
    assert overview.names == {PAGE_VIEWED: 3, "sign_up_opened": 2, "signed_up": 1}
    assert overview.funnels["Sign-up"] == [("sign_up_opened", 2), ("signed_up", 1)]
    assert overview.funnels["Analysis"] == [("repository_added", 0), ("analysis_requested", 0), ("report_viewed", 0)]
    assert (overview.opted_out, overview.accounts, overview.has_events) == (0, 0, True)


def test_report_reads_one_snapshot(both: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events stored while the report is read are not in its numbers."""
    if both.url.startswith("sqlite"):
        pytest.skip("its transactions come one after the other")
    record(both, event("clicked", FIRST))
    by_name = store.by_name

    def disturbed(*args: Any) -> dict[str, int]:
        record(both, event("clicked", FIRST))
        return by_name(*args)

    monkeypatch.setattr(store, "by_name", disturbed)
    summary = reports(both).summary(WEEK)
    assert (summary.total_events, summary.by_name) == (1, {"clicked": 1})
    monkeypatch.setattr(store, "read_snapshot", lambda _: None)
    summary = reports(both).summary(WEEK)
    assert (summary.total_events, summary.by_name) == (2, {"clicked": 3})
