"""Reports prepared for pages."""

from __future__ import annotations

from typing import Any

import pytest

from app.web import reports
from app.web.reports import Cell, Language, Row


def report(**changes: Any) -> dict[str, Any]:
    scores = dict.fromkeys(["overall", *reports.AREAS], 50) | changes.pop("scores", {})
    return {
        "commits": 12_345,
        "commits_90d": 3,
        "commits_365d": 40,
        "contributors": 7,
        "contributor_absence_factor": 2,
        "first_commit_at": "2020-01-01T00:00:00Z",
        "last_commit_at": "2025-10-03T12:05:00Z",
        "releases": {"count": 4, "latest": "1.2", "latest_at": "2025-05-01T00:00:00Z", "median_days_between": 30},
        "files": 100,
        "languages": {"Python": 900, "HTML": 100},
        "license": "MIT",
        "practices": {"readme": "README.md", "linter": None},
        "scores": {name: {"score": score, "evidence": []} for name, score in scores.items()},
        **changes,
    }


EMPTY = report(
    commits=0,
    first_commit_at=None,
    last_commit_at=None,
    releases={"count": 0, "latest": None, "latest_at": None, "median_days_between": None},
    languages={},
    license=None,
    scores=dict.fromkeys(["overall", *reports.AREAS]),
)


def row(label: str, *compared: dict[str, Any] | None) -> Row:
    return next(row for row in reports.side_by_side(compared) if row.label == label)


def test_area_scores_have_the_order_of_the_spokes() -> None:
    assert reports.area_scores({"overall": 9, "engineering": 6, "activity": 1, "community": None}) == [
        1,
        None,
        None,
        None,
        None,
        6,
    ]
    assert reports.area_scores(None) == [None] * 6


def test_languages_are_sorted_by_size() -> None:
    assert reports.languages(report()) == [Language("Python", 900), Language("HTML", 100)]
    assert reports.languages(EMPTY) == []


def test_small_languages_are_combined_if_there_are_many() -> None:
    many = {f"L{number}": number for number in range(1, 11)}
    shown = reports.languages(report(languages=many))
    assert shown[0] == Language("L10", 10)
    assert shown[-1] == Language("Other", 1 + 2 + 3)
    assert len(shown) == reports.MAX_LANGUAGES + 1


def test_eight_languages_are_not_combined() -> None:
    many = {f"L{number}": number for number in range(1, 9)}
    assert [language.name for language in reports.languages(report(languages=many))][-1] == "L1"


def test_best_value_of_a_row_is_marked() -> None:
    better, worse = report(scores={"activity": 80}), report(scores={"activity": 79})
    assert row("Activity", worse, better) == Row("Activity", [Cell("79"), Cell("80", best=True)])


def test_equal_values_are_not_marked() -> None:
    assert row("Overall", report(), report()) == Row("Overall", [Cell("50"), Cell("50")])


def test_latest_commit_is_best() -> None:
    older = report(last_commit_at="2024-12-31T23:59:59Z")
    assert [cell.best for cell in row("Last commit", older, report()).cells] == [False, True]


def test_unranked_values_are_not_marked() -> None:
    assert [cell.best for cell in row("Commits", report(), report(commits=1)).cells] == [False, False]
    assert row("Commits", report()).cells == [Cell("12,345")]


@pytest.mark.parametrize("label", ["Overall", "Last commit", "Latest release", "First commit", "Main language", "Licence"])
def test_unknown_value_is_a_dash(label: str) -> None:
    assert row(label, EMPTY, None).cells == [Cell("–"), Cell("–")]


def test_trend_compares_the_last_two_reports() -> None:
    scores: list[dict[str, int | None]] = [dict.fromkeys(["overall", *reports.AREAS], value) for value in (40, 60, 50)]
    scores[1]["community"] = None
    found = {
        trend.label: trend for trend in reports.trends(list(zip(["2025-01-01", "2025-01-02", "2025-01-03"], scores, strict=True)))
    }
    assert list(found) == ["Overall", *reports.AREAS.values()]
    assert (found["Overall"].latest, found["Overall"].change) == (50, -10)
    assert found["Overall"].curves == ["0,60 150,40 300,50"]
    assert (found["Community"].latest, found["Community"].change) == (50, None)
    assert found["Community"].curves == ["0,60", "300,50"]
