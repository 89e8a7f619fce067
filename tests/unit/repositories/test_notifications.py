from __future__ import annotations

from datetime import UTC, datetime

import pytest

from app.repositories.notifications import NotificationDraft, Report, drafts_of_failure, drafts_of_success
from app.repositories.store import Analysis, Repository
from tests.unit.repositories.conftest import report

REPOSITORY = Repository(7, "https://example.org/pallets/flask", "pallets/flask")
ANALYSIS = Analysis(11, 7, "running", 0, "", None, datetime.now(UTC), None)
ABOUT = {"repository_id": 7, "analysis_id": 11, "name": "pallets/flask"}


def other_drafts(now: Report, before: Report | None) -> list[NotificationDraft]:
    """Return the drafts that follow the one for the success itself."""
    first, *others = drafts_of_success(REPOSITORY, ANALYSIS, now, before)
    assert first.type == "analysis.succeeded"
    return others


def test_success_notification_contains_the_scores() -> None:
    (draft,) = drafts_of_success(REPOSITORY, ANALYSIS, report(overall=83, releases=None), None)
    assert draft.title == "Analysis of pallets/flask finished: overall score 83 of 100"
    scores = dict.fromkeys(("activity", "community", "continuity", "documentation", "engineering"), 50)
    assert draft.data == {**ABOUT, "scores": {**scores, "releases": None, "overall": 83}}


def test_success_notification_without_score_has_the_reason() -> None:
    (draft,) = drafts_of_success(REPOSITORY, ANALYSIS, report(overall=None) | {"commits": 0}, None)
    assert draft.title == "Analysis of pallets/flask finished: no score, because it has no commits"
    (draft,) = drafts_of_success(REPOSITORY, ANALYSIS, report(overall=None), None)
    assert draft.title == "Analysis of pallets/flask finished: no score, because its history is cut off"


@pytest.mark.parametrize(("before", "after", "is_notified"), [(80, 71, False), (80, 70, True), (80, 89, False), (80, 90, True)])
def test_score_change_of_ten_points_causes_a_notification(before: int, after: int, is_notified: bool) -> None:
    drafts = other_drafts(report(activity=after), report(activity=before))
    assert [draft.type for draft in drafts] == ["score.changed"] * is_notified


def test_several_score_changes_cause_one_notification() -> None:
    (draft,) = other_drafts(report(activity=65, community=60), report(activity=80, community=45))
    assert draft.title == "pallets/flask: activity fell from 80 to 65, community rose from 45 to 60"
    changes = [{"score": "activity", "before": 80, "after": 65}, {"score": "community", "before": 45, "after": 60}]
    assert draft.data == {**ABOUT, "changes": changes}


@pytest.mark.parametrize(("before", "after"), [(None, 90), (90, None), (None, None)])
def test_score_that_appears_or_disappears_causes_no_notification(before: int | None, after: int | None) -> None:
    assert other_drafts(report(activity=after), report(activity=before)) == []


def test_scores_of_different_formulas_cause_no_notification() -> None:
    old, new = report(activity=80), report(activity=50)
    assert other_drafts(new | {"formula_version": 2}, old) == []
    assert len(other_drafts(new | {"formula_version": 2}, old | {"formula_version": 2})) == 1


def test_new_release_causes_a_notification() -> None:
    (draft,) = other_drafts(report("2.0", "2026-01-01T00:00:00Z"), report("1.0", "2025-01-01T00:00:00Z"))
    assert (draft.type, draft.title) == ("release.found", "pallets/flask released 2.0")
    assert draft.data == {**ABOUT, "release": "2.0", "released_at": "2026-01-01T00:00:00Z"}


def test_first_release_causes_a_notification() -> None:
    (draft,) = other_drafts(report("1.0", "2025-01-01T00:00:00Z"), report())
    assert draft.type == "release.found"


@pytest.mark.parametrize(
    ("now", "before"),
    [
        (report("1.0", "2025-01-01T00:00:00Z"), report("1.0", "2025-01-01T00:00:00Z")),
        (report("1.0", "2025-01-01T00:00:00Z"), report("2.0", "2026-01-01T00:00:00Z")),
        (report(), report("1.0", "2025-01-01T00:00:00Z")),
        (report("1.0", "2025-01-01T00:00:00Z"), None),
    ],
    ids=["same release", "latest was deleted", "all were deleted", "first analysis"],
)
def test_release_that_is_not_new_causes_no_notification(now: Report, before: Report | None) -> None:
    assert other_drafts(now, before) == []


def test_failure_notification_contains_the_error() -> None:
    (draft,) = drafts_of_failure(REPOSITORY, ANALYSIS, "x" * 1000)
    assert (draft.type, draft.title) == ("analysis.failed", "Analysis of pallets/flask failed")
    assert draft.data == {**ABOUT, "error": "x" * 500}
