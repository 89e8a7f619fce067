"""Scores follow the documented formulas, never fall when a project gets better, and say truly what would raise them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.analysis import scores
from app.analysis.git import GitRepository
from app.analysis.releases import MAX_RECENT
from app.analysis.report import build as report_of
from harness.repositories import NOW, Commit, Tag, ago, build
from harness.scale import count
from tests.unit.analysis import random_reports
from tests.unit.analysis.random_reports import half, random_report

README = {b"README.md": b"# x\n"}


def person(number: int) -> bytes:
    return b"P%d <p%d@example.org>" % (number, number)


def scores_of(path: Path, commits: list[Commit], tags: list[Tag] = []) -> dict[str, Any]:  # noqa: B006
    build(path, commits, tags)
    found: dict[str, Any] = report_of(GitRepository(path), NOW, lambda fraction, step: None)["scores"]
    return found


def test_evidence_contains_the_numbers(tmp_path: Path) -> None:
    tags = [Tag("v1.0", 0, ago(400)), Tag("v1.1", 1, ago(201))]
    authors = [(700, 0), (43, 0), (42, 0), (41, 0), (40, 1)]
    found = scores_of(tmp_path / "a.git", [Commit(ago(day), person(author), README) for day, author in authors], tags)
    assert {name: score["evidence"] for name, score in found.items() if name != "overall"} == {
        "activity": [
            "The last commit by a person was made 40 days ago.",
            "People made 4 commits in the last 365 days, 4 of them in the last 90 days.",
            "2 weeks of the last 52 had commits.",
        ],
        "community": [
            "2 people made commits in the last 365 days.",
            "1 of them made their first commit in this time.",
            "1 of them also made commits in the 365 days before.",
        ],
        "continuity": [
            "The top author made 75 % of the commits in the 365 days before the last commit.",
            "1 person made at least half of them.",
            "1 person who joined one to five years ago made commits in the last 365 days.",
            "2 years of the last five had commits.",
        ],
        "releases": [
            "The latest of 2 releases, v1.1, was published 201 days ago.",
            "2 releases were published in the last 730 days.",
            "The median time between releases is 199.0 days.",
        ],
        "documentation": [
            "Found 1 of 6: a README (10 points).",
            "Missing: a licence (15 points), a contributing guide (15 points), a changelog (15 points), "
            "a security policy (15 points), a code of conduct (10 points).",
            "There is 1 file of documentation and prose.",
        ],
        "engineering": [
            "Found 0 of 5.",
            "Missing: tests (10 points), continuous integration (10 points), a dependency manifest (5 points), "
            "a linter configuration (20 points), a lock file (15 points).",
            "There are 0 files of tests and 0 files of continuous integration.",
        ],
    }


def test_evidence_uses_the_singular(tmp_path: Path) -> None:
    found = scores_of(tmp_path / "a.git", [Commit(ago(1), person(1), README)], [Tag("v1.0")])
    evidence = [sentence for score in found.values() for sentence in score["evidence"]]
    assert "The last commit by a person was made 1 day ago." in evidence
    assert "People made 1 commit in the last 365 days, 1 of them in the last 90 days." in evidence
    assert "1 week of the last 52 had commits." in evidence
    assert "1 person made commits in the last 365 days." in evidence
    assert "The latest of 1 release, v1.0, was published 1 day ago." in evidence


def test_evidence_does_not_count_releases_that_the_report_leaves_out(tmp_path: Path) -> None:
    tags = [Tag(f"v1.{number}", 0, ago(2)) for number in range(MAX_RECENT + 1)]
    found = scores_of(tmp_path / "a.git", [Commit(ago(3), person(1), README)], tags)
    assert "At least 100 releases were published in the last 730 days." in found["releases"]["evidence"]


def documentation(found: float, files: float) -> float:
    """Compute the points with the first so many practices."""
    return scores.documentation_points(list(scores.DOCUMENTATION)[: int(found)], int(files))


def engineering(found: float, tests: float, ci: float) -> float:
    return scores.engineering_points(list(scores.ENGINEERING)[: int(found)], int(tests), int(ci))


# Each formula, the range of each of its inputs, and whether a larger value is better (1) or worse (-1).
FORMULAS: dict[Callable[..., float], list[tuple[float, float, int]]] = {
    scores.activity_points: [(0, 3000, -1), (0, 3000, 1), (0, 52, 1)],
    scores.community_points: [(0, 300, 1), (0, 200, 1)],
    scores.continuity_points: [(0.001, 1, -1), (1, 30, 1), (0, 1500, -1), (0, 60, 1), (0, 5, 1)],
    scores.releases_points: [(0, 1500, -1), (0, 40, 1)],
    documentation: [(0, 6, 1), (0, 2000, 1)],
    engineering: [(0, 5, 1), (0, 500, 1), (0, 20, 1)],
}


@pytest.mark.parametrize("formula", FORMULAS)
def test_formulas_are_monotone_from_0_to_100(formula: Callable[..., float]) -> None:
    choose = random.Random(1)  # noqa: S311
    inputs = FORMULAS[formula]
    worst, best = ([low if (direction > 0) == (end == 0) else high for low, high, direction in inputs] for end in (0, 1))
    assert formula(*best) == pytest.approx(100)
    assert formula(*worst) == pytest.approx(0)
    for _ in range(count(100, 2000)):
        values = [choose.uniform(low, high) for low, high, _ in inputs]
        for number, (low, high, direction) in enumerate(inputs):
            changed = [*values[:number], choose.uniform(low, high), *values[number + 1 :]]
            difference = (changed[number] - values[number]) * direction
            assert (formula(*changed) - formula(*values)) * difference >= 0
            assert -1e-9 <= formula(*changed) <= 100 + 1e-9


# Advice, and how it changes a report. The number of the advice is what the changed report gets.
NUMBER = r"(?P<n>\d+|One|Two|Three)"
CHANGES: dict[str, Callable[[dict[str, Any], int], Any]] = {
    r"A commit today would .*": lambda report, n: commit_today(report),
    r"Commits in each week of a year would .*": lambda report, n: commits_each_week(report, 52),
    r"(?P<n>\d+) commits in a year, some in each week, would .*": lambda report, n: commits_each_week(report, n),
    rf"{NUMBER} more newcomers? in a year would .*": lambda report, n: add(report["people"], newcomers=n),
    rf"{NUMBER} more (person|people) with commits in two years running would .*": lambda report, n: add(
        report["people"], returning=n
    ),
    rf"{NUMBER} more newcomers? who stays? for over a year would .*": lambda report, n: add(
        report["people"], newcomers_who_stayed=n
    ),
    r"New commits by the same people would .*": lambda report, n: commit_again(report),
    rf"({NUMBER} more|A second) (person|people) with a quarter of the commits( each)? would .*": lambda report, n: add_quarters(
        report, n
    ),
    r"16 people with equal shares, and 20 newcomers who stay, .*": lambda report, n: share_evenly(report),
    r"Commits in each of 5 years would .*": lambda report, n: report["people"].update(active_years=5),
    r"A (tagged )?release today would .*": lambda report, n: add_releases(report, 1),
    r"(?P<n>\d+) releases in 730 days would .*": lambda report, n: add_releases(report, n),
    r"Documentation in (?P<n>\d+) files would .*": lambda report, n: report["other_files"].update(documentation=n, prose=0),
    r"(?P<n>\d+) files of tests would .*": lambda report, n: report["practice_files"].update(tests=n),
    r"(?P<n>\d+) files of continuous integration would .*": lambda report, n: report["practice_files"].update(ci=n),
}
WORDS = {"One": 1, "Two": 2, "Three": 3}


def commit_today(report: dict[str, Any]) -> None:
    people = report["people"]
    if report["as_of"] != people["last_commit_at"] and people["last_commit_at"] <= random_reports.ago(7):
        people["active_weeks"] = min(52, people["active_weeks"] + 1)
    people["commits_365d"] += 1
    set_last_commit(report)


def commits_each_week(report: dict[str, Any], commits: int) -> None:
    people = report["people"]
    people.update(commits_365d=max(commits, people["commits_365d"]), active_weeks=52)
    set_last_commit(report)


def set_last_commit(report: dict[str, Any]) -> None:
    report["people"]["last_commit_at"] = report["as_of"]


def commit_again(report: dict[str, Any]) -> None:
    set_last_commit(report)
    report["people"]["active_years"] = max(1, report["people"]["active_years"])


def add(numbers: dict[str, Any], **more: int) -> None:
    numbers.update({name: numbers[name] + number for name, number in more.items()})


def add_quarters(report: dict[str, Any], people: int) -> None:
    """Use whole numbers of commits, unlike the code under test: as many as give each new person a quarter."""
    before = [round(share * 10**12) for share in report["author_shares"]]
    commits = sorted([*(number * (4 - people) for number in before), *[sum(before)] * people], reverse=True)
    report["author_shares"] = [number / sum(commits) for number in commits]
    report["people"]["half"] = half(commits)


def share_evenly(report: dict[str, Any]) -> None:
    report["author_shares"] = [1 / 16] * 16
    report["people"].update(half=8, newcomers_who_stayed=max(20, report["people"]["newcomers_who_stayed"]))


def add_releases(report: dict[str, Any], number: int) -> None:
    releases = report["releases"]
    releases.update(latest="x", latest_at=report["as_of"])
    releases["recent"] = [{"name": "x", "at": report["as_of"]}] * number + (releases["recent"] if number == 1 else [])


def add_practice(report: dict[str, Any], name: str) -> None:
    report["practices"][name] = "a path"
    if name in report["practice_files"]:
        report["practice_files"][name] += 1


def practice_found(name: str) -> Callable[[dict[str, Any], int], Any]:
    return lambda report, n: add_practice(report, name)


for practice, text in scores.PRACTICE_NAMES.items():
    CHANGES[f"{text[0].upper()}{text[1:]} would .*"] = practice_found(practice)


def test_advice_on_the_mean_is_true() -> None:
    choose = random.Random(1)  # noqa: S311
    for _ in range(count(50, 1000)):
        found = scores.scores(random_report(choose) | {"is_shallow": False, "commits": 1})
        values = {name: found[name].score or 0 for name in scores.SCORE_NAMES}
        advice = re.fullmatch(
            r"Raising (\w+), the lowest score, to (\d+) would bring this to (\d+)\.", found["overall"].advice or ""
        )
        assert advice
        assert values[advice[1]] == min(values.values())
        assert (
            scores.rounded(sum((values | {advice[1]: int(advice[2])}).values()) / 6)
            == int(advice[3])
            > (found["overall"].score or 0)
        )


@pytest.mark.parametrize("name", scores.SCORE_NAMES)
def test_advice_is_true(name: str) -> None:
    choose = random.Random(name)  # noqa: S311
    seen = set()
    for _ in range(count(150, 3000)):
        report = random_report(choose) | {"is_shallow": False, "commits": 1}
        score = scores.scores(report)[name]
        assert score.score is not None
        assert (score.advice is None) == (score.score == 100), report
        if score.advice in (None, "Commits by people would raise this."):
            continue
        (pattern,) = [pattern for pattern in CHANGES if re.fullmatch(pattern, score.advice)]
        seen.add(pattern)
        match = re.fullmatch(pattern, score.advice)
        assert match
        words = match.groupdict().get("n") or "One"
        CHANGES[pattern](report, WORDS.get(words) or int(words))
        claimed = int(score.advice.removesuffix(".").split()[-1])
        assert claimed > score.score
        assert claimed == scores.scores(report)[name].score, (score, report)
    assert len(seen) > 1
