"""The headline is one true sentence that names the weakest point and never contradicts the bands."""

from __future__ import annotations

import random
import re
from dataclasses import asdict
from typing import Any

import pytest

from app.analysis import scores, verdict
from harness.scale import count
from tests.unit.analysis.random_reports import PRACTICES, ago, random_report

ALL_STRONG = {"activity": 95, "community": 90, "continuity": 80, "releases": 100, "documentation": 85, "engineering": 90}


def judged(report: dict[str, Any], **values: int | None) -> str:
    """Return the headline of a report with these scores."""
    report["scores"] = {name: {"score": value} for name, value in (ALL_STRONG | {"overall": 50} | values).items()}
    headline: str = verdict.judge(report)["headline"]
    return headline


def report(**changes: Any) -> dict[str, Any]:
    people = {"last_commit_at": ago(3), "commits_last_year": 100, "commits_365d": 100, "half": 1, "newcomers": 3, "returning": 1}
    return {
        "as_of": ago(0),
        "is_shallow": False,
        "commits": 500,
        "last_commit_at": ago(3),
        "author_shares": [0.89, 0.11],
        "bots": {"authors": 0, "commits": 0},
        "releases": {"latest_at": ago(30), "recent": [{"name": "1.0", "at": ago(30)}]},
        "practices": dict.fromkeys(PRACTICES, "a path"),
        **changes,
        "people": people | changes.get("people", {}),
    }


@pytest.mark.parametrize(
    ("changes", "values", "expected"),
    [
        ({"commits": 0}, {}, "There are no commits, so there is nothing to judge."),
        ({}, {}, "Strong in everything that was measured, with continuity as the lowest score (80)."),
        ({}, dict.fromkeys(ALL_STRONG, 100), "Strong in everything that was measured."),
        ({}, {"continuity": 10}, "Well maintained and released often, but one person makes 89 % of the changes."),
        (
            {},
            {"continuity": 20, "community": 10},
            "Well maintained and released often, but hardly anybody stays for a second year and one person makes 89 % of the "
            "changes.",
        ),
        (
            {"people": {"last_commit_at": ago(3 * 366)}, "last_commit_at": ago(3 * 366)},
            {"activity": 0, "releases": 0},
            "No commit for three years, so nobody is likely to fix faults.",
        ),
        (
            {"people": {"last_commit_at": ago(800)}},
            {"activity": 0},
            "No commit by a person for two years, so nobody is likely to fix faults.",
        ),
        (
            {"people": {"last_commit_at": ago(595)}},
            {"activity": 0, "community": 0, "continuity": 50, "releases": 50, "documentation": 50, "engineering": 50},
            "The last commit was made 19 months ago and hardly anybody stays for a second year.",
        ),
        (
            {"bots": {"authors": 1, "commits": 72}},
            {"community": 60},
            "Well maintained and released often, but hardly anybody stays for a second year and bots make 42 % of the commits.",
        ),
        (
            {"bots": {"authors": 1, "commits": 72}},
            {},
            "Strong in everything that was measured, but bots make 42 % of the commits.",
        ),
        (
            {"practices": dict.fromkeys(PRACTICES, "a path") | {"license": None}},
            {"releases": 30, "documentation": 70},
            "Well maintained and carried by several people, but there was only 1 release in two years and there is no licence.",
        ),
        (
            {"releases": {"latest_at": None}},
            dict.fromkeys(ALL_STRONG, 0) | {"releases": -1},
            "Weak in everything that was measured: there are no releases and people made only 100 commits in a year.",
        ),
        (
            {},
            dict.fromkeys(ALL_STRONG, 55) | {"engineering": 54},
            "Fair, but nowhere strong: there are few tests and checks.",
        ),
        (
            {"is_shallow": True, "practices": dict.fromkeys(PRACTICES, "a path") | {"tests": None}},
            {"activity": None, "community": None, "continuity": None, "releases": None, "engineering": 20},
            "The history is cut off, so only the files were judged: well documented, but there are no tests.",
        ),
    ],
)
def test_headlines(changes: dict[str, Any], values: dict[str, int | None], expected: str) -> None:
    assert judged(report(**changes), **values) == expected


@pytest.mark.parametrize(
    ("score", "band"), [(None, None), (0, "weak"), (39, "weak"), (40, "fair"), (69, "fair"), (70, "strong"), (100, "strong")]
)
def test_bands(score: int | None, band: str | None) -> None:
    assert verdict.band(score) == band


def test_headline_of_any_report_is_one_true_sentence() -> None:
    choose = random.Random(7)  # noqa: S311
    for _ in range(count(300, 10_000)):
        found = random_report(choose)
        results = {name: asdict(score) for name, score in scores.scores(found).items()}
        if choose.random() < 0.5:  # scores that do not fit the other numbers must give a sentence, too
            results |= {
                name: {"score": choose.randint(0, 100)} for name, result in results.items() if result["score"] is not None
            }
        found["scores"] = results
        judgement = verdict.judge(found)
        headline, bands = judgement["headline"], judgement["bands"]
        assert re.fullmatch(r"[A-Z0-9][^.\n{}]*\.", headline), headline
        assert len(headline) <= 160, headline
        assert "  " not in headline
        assert not [text for name, text in verdict.STRENGTHS.items() if text in headline.lower() and bands[name] != "strong"]
        known = {name: results[name]["score"] for name in scores.SCORE_NAMES if results[name]["score"] is not None}
        if not known:
            assert headline == "There are no commits, so there is nothing to judge."
        elif headline.startswith("No commit"):
            assert not found["is_shallow"]
            assert scores.whole_days(found["people"]["last_commit_at"], found["as_of"]) >= 730
        elif min(known.values()) < 70:
            lowest = min(known, key=known.__getitem__)
            assert verdict.weakness(lowest, found) in headline[0].lower() + headline[1:]
            assert ("strong in everything" in headline.lower()) is False
        else:
            assert "trong in everything that was measured" in headline
