"""Scores follow the documented formulas, never fall when a project gets better, and say truly what would raise them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.analysis import scores
from app.analysis.git import GitRepository
from app.analysis.report import build as report_of
from harness.repositories import NOW, Commit, Tag, ago, build

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
            "Found 1 of 6: a README (30 points).",
            "Missing: a licence (25 points), a contributing guide (15 points), a changelog (15 points), "
            "a security policy (10 points), a code of conduct (5 points).",
        ],
        "engineering": [
            "Found 0 of 5.",
            "Missing: tests (30 points), continuous integration (30 points), a dependency manifest (15 points), "
            "a linter configuration (15 points), a lock file (10 points).",
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


# Each formula, the range of each of its inputs, and whether a larger value is better (1) or worse (-1).
FORMULAS: dict[Callable[..., float], list[tuple[float, float, int]]] = {
    scores.activity_points: [(0, 3000, -1), (0, 3000, 1), (0, 52, 1)],
    scores.community_points: [(0, 300, 1), (0, 200, 1)],
    scores.continuity_points: [(0.001, 1, -1), (1, 30, 1), (0, 1500, -1), (0, 60, 1), (0, 5, 1)],
    scores.releases_points: [(0, 1500, -1), (0, 40, 1)],
}


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.__name__)
def test_formulas_are_monotone_from_0_to_100(formula: Callable[..., float]) -> None:
    choose = random.Random(formula.__name__)  # noqa: S311
    inputs = FORMULAS[formula]
    worst, best = ([low if (direction > 0) == (end == 0) else high for low, high, direction in inputs] for end in (0, 1))
    assert formula(*best) == pytest.approx(100)
    assert formula(*worst) == pytest.approx(0)
    for _ in range(300):
        values = [choose.uniform(low, high) for low, high, _ in inputs]
        for number, (low, high, direction) in enumerate(inputs):
            changed = [*values[:number], choose.uniform(low, high), *values[number + 1 :]]
            difference = (changed[number] - values[number]) * direction
            assert (formula(*changed) - formula(*values)) * difference >= 0
            assert -1e-9 <= formula(*changed) <= 100 + 1e-9
