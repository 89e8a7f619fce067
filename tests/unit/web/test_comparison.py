"""Comparisons of reports."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from app.repositories.service import FollowedRepository
from app.web import comparison
from app.web.comparison import Cell, Row
from tests.unit.web.samples import EMPTY, judged_report, report


def row(label: str, *compared: dict[str, Any] | None) -> Row:
    return next(row for row in comparison.side_by_side(compared) if row.label == label)


def test_best_value_of_a_row_is_marked() -> None:
    better, worse = report(scores={"activity": 80}), report(scores={"activity": 79})
    assert row("Activity", worse, better) == Row("Activity", [Cell("79"), Cell("80", best=True)])


def test_equal_values_are_not_marked() -> None:
    assert row("Overall", report(), report()) == Row("Overall", [Cell("50"), Cell("50")])


def test_latest_commit_is_best() -> None:
    older = report(last_commit_at="2024-12-31T23:59:59Z")
    assert [cell.best for cell in row("Last commit", older, report()).cells] == [False, True]


@pytest.mark.parametrize("label", ["First commit", "Last commit", "Latest release"])
def test_days_keep_their_time_so_that_the_page_can_show_the_day_of_the_reader(label: str) -> None:
    time = "2024-12-31T23:59:59Z"
    dated = report(first_commit_at=time, last_commit_at=time, releases={"count": 1, "latest": "1.0", "latest_at": time})
    assert row(label, dated).cells == [Cell("31 December 2024", at=time)]


def test_unranked_values_are_not_marked() -> None:
    assert [cell.best for cell in row("Commits", report(), report(commits=1)).cells] == [False, False]
    assert row("Commits", report()).cells == [Cell("12,345")]


@pytest.mark.parametrize("label", ["Overall", "Last commit", "Latest release", "First commit", "Main language", "Licence"])
def test_unknown_value_is_a_dash(label: str) -> None:
    assert row(label, EMPTY, None).cells == [Cell("–"), Cell("–")]


def test_rows_with_equal_values_do_not_differ() -> None:
    assert row("Commits", report(), report(commits=1)).differs
    assert not row("Commits", report(), report()).differs
    assert row("Licence", report(), None).differs


def entry(found: dict[str, Any] | None) -> FollowedRepository:
    return FollowedRepository(1, "https://example.org/a", "a", datetime.now(UTC), None, None, found)


def test_reports_with_older_formulas_than_another_are_not_compared() -> None:
    old, new, waiting = entry(report()), entry(judged_report()), entry(None)
    assert comparison.comparable([old, new, waiting]) == ([new, waiting], [old])
    assert comparison.comparable([old, old, waiting]) == ([old, old, waiting], [])
    assert comparison.comparable([]) == ([], [])
