from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.repositories.notifications import (
    NotificationDraft,
    Report,
    Told,
    drafts_of_failure,
    drafts_of_success,
    is_silent,
)
from app.repositories.store import Analysis, Audience, Repository
from tests.unit.repositories import conftest

REPOSITORY = Repository(7, "https://example.org/pallets/flask", "pallets/flask")
START = datetime(2026, 1, 5, 3, 4, 5, tzinfo=UTC)  # a Monday
ADA, BOB = 1, 2
BOTH = frozenset({ADA, BOB})
DAILY = Audience(BOTH, frozenset(), frozenset(), {})
ABOUT = {"repository_id": 7, "analysis_id": 11, "name": "pallets/flask"}


def analysis(day: int = 0) -> Analysis:
    return Analysis(11, 7, "running", 0, "", None, START + timedelta(days=day), None)


def requested_by(*users: int, newcomers: tuple[int, ...] = ()) -> Audience:
    return Audience(BOTH, frozenset(users), frozenset(newcomers), {})


def iso(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def band(score: int | None) -> str | None:
    return None if score is None else "strong" if score >= 70 else "fair" if score >= 40 else "weak"


def report(*releases: tuple[str, int], day: int = 0, last_commit: int = -1, **scores: int | None) -> Report:
    """Return a report of formula version 2. Days count from START; `releases` are names and days, newest first.

    Half of the pauses between commits are at most a week.
    """
    found = conftest.report(None, None, **scores)
    recent = [{"name": name, "at": iso(START + timedelta(days=at))} for name, at in releases]
    latest = recent[0] if recent else {"name": None, "at": None}
    return {
        **found,
        "as_of": iso(START + timedelta(days=day)),
        "formula_version": 2,
        "license": "MIT",
        "last_commit_at": iso(START + timedelta(days=last_commit)),
        "median_pause_days": 7,
        "releases": {"count": len(recent), "latest": latest["name"], "latest_at": latest["at"], "recent": recent},
        "verdict": {"bands": {name: band(result["score"]) for name, result in found["scores"].items()}},
    }


def version_1(report: Report) -> Report:
    old = {name: value for name, value in report.items() if name not in ("formula_version", "median_pause_days", "verdict")}
    return {**old, "releases": {name: value for name, value in report["releases"].items() if name != "recent"}}


def follow(*reports: Report) -> list[list[NotificationDraft]]:
    """Return the notifications of each report after the first. What is known is stored as JSON in between."""
    told, found, previous = Told(), [], None
    for one in reports:
        drafts, after = drafts_of_success(REPOSITORY, analysis(), one, previous, told, DAILY)
        told, previous = Told.from_json(json.loads(json.dumps(after.to_json()))), one
        found.append([draft for draft in drafts if draft.recipients])
    return found[1:]


def types(drafts: list[list[NotificationDraft]]) -> list[list[str]]:
    return [[draft.type for draft in day] for day in drafts]


def only(*reports: Report) -> NotificationDraft:
    """Return the only notification that the reports after the first cause."""
    (draft,) = (draft for day in follow(*reports) for draft in day)
    return draft


def first(report: Report) -> NotificationDraft:
    (draft,), _ = drafts_of_success(REPOSITORY, analysis(), report, None, Told(), requested_by(ADA))
    return draft


def test_success_notification_contains_the_scores() -> None:
    draft = first(report(overall=83, releases=None))
    assert draft.title == "Analysis of pallets/flask finished: overall score 83 of 100"
    scores = dict.fromkeys(("activity", "community", "continuity", "documentation", "engineering"), 50)
    assert draft.data == {**ABOUT, "scores": {**scores, "releases": None, "overall": 83}}


def test_success_notification_without_score_has_the_reason() -> None:
    draft = first(report(overall=None) | {"commits": 0})
    assert draft.title == "Analysis of pallets/flask finished: no score, because it has no commits"
    draft = first(report(overall=None))
    assert draft.title == "Analysis of pallets/flask finished: no score, because its history is cut off"


def test_first_report_is_news_for_all_followers_and_later_ones_for_those_who_requested_them() -> None:
    (draft,), told = drafts_of_success(REPOSITORY, analysis(), report(), None, Told(), requested_by(ADA))
    assert (draft.type, draft.recipients) == ("analysis.succeeded", BOTH)
    (draft,), told = drafts_of_success(REPOSITORY, analysis(), report(), report(), told, requested_by(ADA))
    assert (draft.type, draft.recipients) == ("analysis.succeeded", frozenset({ADA}))
    (draft,), told = drafts_of_success(REPOSITORY, analysis(), report(), report(), told, DAILY)
    assert draft.recipients == set()


def test_follower_who_has_not_seen_the_previous_report_is_not_told_of_changes() -> None:
    told = Told().after_report(report(activity=50))
    audience = requested_by(BOB, newcomers=(BOB,))
    success, change = drafts_of_success(REPOSITORY, analysis(), report(activity=80), report(activity=50), told, audience)[0]
    assert (success.recipients, change.recipients) == (frozenset({BOB}), frozenset({ADA}))


@pytest.mark.parametrize(("before", "after", "is_notified"), [(95, 86, False), (95, 85, True), (80, 89, False), (80, 90, True)])
def test_score_change_of_ten_points_causes_a_notification(before: int, after: int, is_notified: bool) -> None:
    assert types(follow(report(activity=before), report(activity=after))) == [["score.changed"] * is_notified]


def test_several_score_changes_cause_one_notification() -> None:
    draft = only(report(activity=95, community=45), report(activity=80, community=60))
    assert draft.title == "pallets/flask: activity fell from 95 to 80, community rose from 45 to 60"
    strong, fair = dict.fromkeys(("before_band", "after_band"), "strong"), dict.fromkeys(("before_band", "after_band"), "fair")
    activity = {"score": "activity", "before": 95, "after": 80, **strong}
    assert draft.data == {**ABOUT, "changes": [activity, {"score": "community", "before": 45, "after": 60, **fair}]}


@pytest.mark.parametrize(("before", "after"), [(70, 69), (69, 70), (40, 39), (39, 40)])
def test_another_band_causes_a_notification(before: int, after: int) -> None:
    draft = only(report(overall=before), report(overall=after))
    verb = "rose" if after > before else "fell"
    assert draft.title == f"pallets/flask: overall {verb} from {before} ({band(before)}) to {after} ({band(after)})"


def test_slow_change_is_compared_with_what_was_told_last() -> None:
    scores = [95, 93, 91, 89, 87, 85, 83, 81, 79, 77, 75]
    days = types(follow(*(report(day=day, activity=score) for day, score in enumerate(scores))))
    assert [number for number, day in enumerate(days, 1) if day] == [5, 10]


def test_score_that_flaps_around_a_threshold_is_news_once() -> None:
    days = follow(*(report(day=day, activity=70 - day % 2) for day in range(30)))
    assert sum(map(len, days)) == 1
    days = follow(*(report(day=day, activity=80 + 10 * (day > 0) - day % 2) for day in range(30)))
    assert sum(map(len, days)) == 1


def test_score_that_jumps_back_and_forth_is_news_twice_a_week_and_told_in_the_end() -> None:
    days = types(follow(*(report(day=day, activity=90 - 20 * (day % 2)) for day in range(7))))
    assert sum(map(len, days)) == 2
    scores = [90, 70, 90, *[70] * 8]
    days = types(follow(*(report(day=day, activity=score) for day, score in enumerate(scores))))
    assert [number for number, day in enumerate(days, 1) if day] == [1, 2, 8]


def test_score_that_returns_to_its_former_band_is_news_when_it_has_moved_far_enough() -> None:
    scores = [70, 69, 78, 79]
    days = types(follow(*(report(day=day, activity=score) for day, score in enumerate(scores))))
    assert [number for number, day in enumerate(days, 1) if day] == [1, 3]


@pytest.mark.parametrize(("before", "after"), [(None, 90), (90, None), (None, None)])
def test_score_that_appears_or_disappears_causes_no_notification(before: int | None, after: int | None) -> None:
    assert types(follow(report(activity=before), report(activity=after))) == [[]]


def test_score_that_was_missing_for_a_while_is_compared_with_the_one_before() -> None:
    assert types(follow(report(activity=90), report(activity=None), report(activity=70))) == [[], ["score.changed"]]


def test_other_formulas_are_no_change() -> None:
    old, new = report(activity=90), report(activity=20, last_commit=-300) | {"license": "BSD-3-Clause"}
    assert types(follow(version_1(old), new)) == [[]]
    assert types(follow(old, {**new, "formula_version": 3})) == [[]]
    assert types(follow(old, {**new, "formula_version": 3}, {**new, "formula_version": 3})) == [[], []]
    assert types(follow(version_1(old), version_1(new | {"license": "MIT"}))) == [["score.changed"]]


def test_new_release_causes_a_notification() -> None:
    draft = only(report(("1.0", -300)), report(("2.0", 0), ("1.0", -300)))
    assert (draft.type, draft.title) == ("release.found", "pallets/flask released 2.0")
    assert draft.data == {**ABOUT, "release": "2.0", "released_at": iso(START), "releases": ["2.0"]}


@pytest.mark.parametrize(
    "now",
    [report(("1.0", -300)), report(("1.0", -300), ("0.9", -400)), version_1(report(("1.0", -300)))],
    ids=["one", "two", "formula version 1"],
)
def test_first_release_causes_a_notification(now: Report) -> None:
    before = report() if "formula_version" in now else version_1(report())
    assert only(before, now).data["release"] == "1.0"


def test_several_new_releases_are_one_notification() -> None:
    old = ("1.0", -300)
    assert only(report(old), report(("1.2", 0), ("1.1", -1), old)).title == "pallets/flask released 1.2 and 1 other release"
    draft = only(report(old), report(("1.3", 0), ("1.2", 0), ("1.1", -1), old))
    assert draft.title == "pallets/flask released 1.3 and 2 other releases"


def test_release_of_an_older_branch_causes_a_notification() -> None:
    draft = only(report(("2.0", -2), ("1.0", -300)), report(("2.0", -2), ("1.0.1", -3), ("1.0", -300)))
    assert draft.title == "pallets/flask released 1.0.1"


@pytest.mark.parametrize(
    "reports",
    [
        [report(("1.0", -300)), report(("1.0", -300))],
        [report(("2.0", -1), ("1.0", -300)), report(("1.0", -300))],
        [report(("2.0", -1)), report(("1.0", -300))],
        [report(("1.0", -300)), report()],
        [report(("1.0", -300)), report(), report(("1.0", -300))],
        [report(("1.0", -300)), report(), report(("1.0", 0))],
        [version_1(report(("2.0", -1))), report(("2.0", -1), ("1.9", -10), ("1.0", -300))],
    ],
    ids=["same", "latest deleted", "older one in its place", "all deleted", "created again", "later again", "newly listed"],
)
def test_release_that_is_not_new_causes_no_notification(reports: list[Report]) -> None:
    assert [day for day in types(follow(*reports)) if day] == []


@pytest.mark.parametrize(
    ("before", "after", "title"),
    [
        ("MIT", "Apache-2.0", "pallets/flask changed its licence from MIT to Apache-2.0"),
        (None, "MIT", "pallets/flask now has the licence MIT"),
        ("MIT", None, "pallets/flask no longer has a licence that is recognised; it was MIT"),
    ],
)
def test_another_licence_causes_a_notification(before: str | None, after: str | None, title: str) -> None:
    draft = only(*(report() | {"license": license} for license in (before, after, after)))
    assert (draft.type, draft.title) == ("license.changed", title)
    assert draft.data == {**ABOUT, "before": before, "after": after}


@pytest.mark.parametrize(("pause", "limit"), [(1, 30), (6, 30), (6.5, 32.5), (30, 150)])
def test_silence_is_five_times_the_median_pause_and_at_least_30_days(pause: float, limit: float) -> None:
    for hours, expected in ((-1, False), (0, True)):
        last = START - timedelta(days=limit, hours=hours)
        assert is_silent(report() | {"median_pause_days": pause, "last_commit_at": iso(last)}) is expected


@pytest.mark.parametrize("fields", [{"median_pause_days": None}, {"last_commit_at": None}])
def test_silence_of_a_report_without_two_days_with_commits_is_unknown(fields: dict[str, Any]) -> None:
    assert not is_silent(report(last_commit=-300) | fields)
    assert is_silent(report(last_commit=-300))


def test_silence_and_its_end_are_told_once_each() -> None:
    reports = [report(day=day, last_commit=0 if day < 60 else 60) for day in range(0, 75)]
    days = [(number, draft) for number, drafts in enumerate(follow(*reports), 1) for draft in drafts]
    assert [(number, draft.type) for number, draft in days] == [(35, "repository.silent"), (60, "repository.active")]
    assert [draft.title for _, draft in days] == [
        "pallets/flask has gone silent: no commit for 35 days",
        "pallets/flask is active again: the first commits since 5 January 2026",
    ]


def test_silence_of_a_repository_that_is_added_is_not_news_but_its_end_is() -> None:
    assert types(follow(report(last_commit=-300), report(day=1, last_commit=-300), report(day=2, last_commit=2))) == [
        [],
        ["repository.active"],
    ]


def test_failure_notification_contains_the_error() -> None:
    (draft,), _ = drafts_of_failure(REPOSITORY, analysis(), "x" * 1000, Told(), requested_by(ADA))
    assert (draft.type, draft.title, draft.recipients) == (
        "analysis.failed",
        "Analysis of pallets/flask failed",
        frozenset({ADA}),
    )
    assert draft.data == {**ABOUT, "error": "x" * 500}


def test_repeated_failure_of_daily_analyses_is_told_once() -> None:
    told, days = Told(), []
    for day in range(7):
        drafts, told = drafts_of_failure(REPOSITORY, analysis(day), "no", told, DAILY)
        days.append([(draft.title, draft.recipients) for draft in drafts])
    assert days == [[], [("The last 2 analyses of pallets/flask failed", BOTH)], [], [], [], [], []]


def test_user_who_was_told_of_a_failure_is_not_told_that_it_is_repeated() -> None:
    told = Told()
    _, told = drafts_of_failure(REPOSITORY, analysis(0), "no", told, requested_by(ADA))
    (draft,), told = drafts_of_failure(REPOSITORY, analysis(1), "no", told, DAILY)
    assert draft.recipients == {BOB}
    (draft,), told = drafts_of_failure(REPOSITORY, analysis(2), "no", told, requested_by(ADA))
    assert draft.recipients == {ADA}


def test_failures_begin_again_after_a_success() -> None:
    told = Told().after_report(report())
    for day in range(0, 9, 3):  # two failures, a success
        for failed in range(2):
            drafts, told = drafts_of_failure(REPOSITORY, analysis(day + failed), "no", told, DAILY)
            assert len(drafts) == (failed == 1 and day < 6)  # the third time in a week is not news
        _, told = drafts_of_success(REPOSITORY, analysis(day + 2), report(), report(), told, DAILY)
        assert (told.failures, told.is_failure_told) == (0, False)


def test_fields_of_a_later_version_are_ignored() -> None:
    stored = {**Told(failures=1).to_json(), "invented_later": 1}
    assert Told.from_json(stored) == Told(failures=1)
