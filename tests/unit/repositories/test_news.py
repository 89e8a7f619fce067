from __future__ import annotations

from datetime import UTC, datetime

import pytest

from app.repositories import news
from app.repositories.news import News, Report
from app.repositories.store import Analysis, Repository
from tests.unit.repositories.conftest import report

REPOSITORY = Repository(7, "https://example.org/pallets/flask", "pallets/flask")
ANALYSIS = Analysis(11, 7, "running", 0, "", None, datetime.now(UTC), None)
ABOUT = {"repository_id": 7, "analysis_id": 11, "name": "pallets/flask"}


def told(now: Report, before: Report | None) -> list[News]:
    """What there is beside the success itself."""
    first, *others = news.of_success(REPOSITORY, ANALYSIS, now, before)
    assert first.type == "analysis.succeeded"
    return others


def test_a_success_is_told_with_its_scores() -> None:
    (item,) = news.of_success(REPOSITORY, ANALYSIS, report(overall=83, releases=None), None)
    assert item.title == "pallets/flask was analysed: 83 of 100"
    scores = dict.fromkeys(("activity", "community", "continuity", "documentation", "engineering"), 50)
    assert item.data == {**ABOUT, "scores": {**scores, "releases": None, "overall": 83}}


def test_an_empty_repository_is_analysed_too() -> None:
    (item,) = news.of_success(REPOSITORY, ANALYSIS, report(overall=None), None)
    assert item.title == "pallets/flask was analysed: there is nothing to judge yet"


@pytest.mark.parametrize(("before", "after", "notable"), [(80, 71, False), (80, 70, True), (80, 89, False), (80, 90, True)])
def test_a_score_that_changed_by_ten_is_told(before: int, after: int, notable: bool) -> None:
    items = told(report(activity=after), report(activity=before))
    assert [item.type for item in items] == ["score.changed"] * notable


def test_all_changes_are_one_notification() -> None:
    (item,) = told(report(activity=65, community=60), report(activity=80, community=45))
    assert item.title == "pallets/flask: activity fell from 80 to 65, community rose from 45 to 60"
    changes = [{"score": "activity", "before": 80, "after": 65}, {"score": "community", "before": 45, "after": 60}]
    assert item.data == {**ABOUT, "changes": changes}


@pytest.mark.parametrize(("before", "after"), [(None, 90), (90, None), (None, None)])
def test_a_score_that_comes_or_goes_has_not_changed(before: int | None, after: int | None) -> None:
    assert told(report(activity=after), report(activity=before)) == []


def test_a_new_release_is_told() -> None:
    (item,) = told(report("2.0", "2026-01-01T00:00:00Z"), report("1.0", "2025-01-01T00:00:00Z"))
    assert (item.type, item.title) == ("release.found", "pallets/flask released 2.0")
    assert item.data == {**ABOUT, "release": "2.0", "released_at": "2026-01-01T00:00:00Z"}


def test_the_first_release_is_told() -> None:
    (item,) = told(report("1.0", "2025-01-01T00:00:00Z"), report())
    assert item.type == "release.found"


@pytest.mark.parametrize(
    ("now", "before"),
    [
        (report("1.0", "2025-01-01T00:00:00Z"), report("1.0", "2025-01-01T00:00:00Z")),
        (report("1.0", "2025-01-01T00:00:00Z"), report("2.0", "2026-01-01T00:00:00Z")),
        (report(), report("1.0", "2025-01-01T00:00:00Z")),
        (report("1.0", "2025-01-01T00:00:00Z"), None),
    ],
    ids=["the same", "one was withdrawn", "none is left", "first analysis"],
)
def test_what_is_not_new_is_not_told(now: Report, before: Report | None) -> None:
    assert told(now, before) == []


def test_a_failure_is_told_with_its_reason() -> None:
    (item,) = news.of_failure(REPOSITORY, ANALYSIS, "x" * 1000)
    assert (item.type, item.title) == ("analysis.failed", "The analysis of pallets/flask failed")
    assert item.data == {**ABOUT, "error": "x" * 500}
