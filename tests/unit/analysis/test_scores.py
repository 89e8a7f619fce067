"""For each score, two repositories that differ only in that score, computed independently from the output of git."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.analysis.git import GitRepository
from app.analysis.report import build as report_of
from harness.repositories import NOW, Commit, Tag, ago, build
from tests.unit.analysis import literal

README = {b"README.md": b"# x\n"}


def person(number: int) -> bytes:
    return b"P%d <p%d@example.org>" % (number, number)


def history(*authors: int, first: float = 700, quiet: float = 40) -> list[Commit]:
    """Return a first commit and one by each author. `first` and `quiet` are the ages of the first and last commit in days."""
    start = Commit(ago(first), person(0), README)
    return [start, *(Commit(ago(quiet) - len(authors) + number, person(author)) for number, author in enumerate(authors, 1))]


BASE = history(0, 0, 0, 1)
WITH_FILES: dict[bytes, bytes] = {b"LICENSE": b"custom licence\n", b"CHANGELOG.md": b"1\n"}
WITH_TESTS: dict[bytes, bytes] = {b"tests/test_x.py": b"1\n", b".github/workflows/test.yml": b"1\n"}

PAIRS: dict[str, tuple[tuple[list[Commit], list[Tag]], tuple[list[Commit], list[Tag]]]] = {
    "activity": ((BASE, []), (history(0, 0, 0, 0, 0, 0, 1, 1), [])),
    "community": ((BASE, []), ([BASE[0], Commit(ago(699), person(2)), *BASE[1:]], [])),
    "continuity": ((history(0, 0, 0, 0, 1, 2), []), (history(0, 0, 1, 1, 2, 2), [])),
    "releases": ((BASE, []), (BASE, [Tag("v1.0", 0, ago(400)), Tag("v1.1", 1, ago(200))])),
    "documentation": ((BASE, []), ([*BASE[:-1], Commit(BASE[-1].at, BASE[-1].author, WITH_FILES)], [])),
    "engineering": ((BASE, []), ([*BASE[:-1], Commit(BASE[-1].at, BASE[-1].author, WITH_TESTS)], [])),
}


def scores_of(path: Path, commits: list[Commit], tags: list[Tag], found: set[str]) -> tuple[dict[str, int], dict[str, Any]]:
    """Return the independently computed scores, which must equal those of the report, and the scores of the report."""
    build(path, commits, tags)
    report = report_of(GitRepository(path), NOW, lambda fraction, step: None)
    expected = literal.scores(literal.numbers(path, NOW) | {"as_of": literal.iso(int(NOW.timestamp()))}, found)
    assert {name: score["score"] for name, score in report["scores"].items()} == expected
    return expected, report["scores"]


FOUND = {"documentation": {"readme", "license", "changelog"}, "engineering": {"readme", "tests", "ci"}}


@pytest.mark.parametrize("name", PAIRS)
def test_each_score_changes_independently(name: str, tmp_path: Path) -> None:
    (commits, tags), (other_commits, other_tags) = PAIRS[name]
    before, _ = scores_of(tmp_path / "a.git", commits, tags, {"readme"})
    after, _ = scores_of(tmp_path / "b.git", other_commits, other_tags, FOUND.get(name, {"readme"}))
    assert {score for score in before if before[score] != after[score]} == {name, "overall"}
    assert after[name] > before[name]


def test_evidence_contains_the_numbers(tmp_path: Path) -> None:
    tags = [Tag("v1.0", 0, ago(400)), Tag("v1.1", 1, ago(201))]
    _, scores = scores_of(tmp_path / "a.git", BASE, tags, {"readme"})
    assert {name: score["evidence"] for name, score in scores.items() if name != "overall"} == {
        "activity": [
            "The last commit was made 40 days ago.",
            "4 commits were made in the last 365 days, 4 of them in the last 90 days.",
        ],
        "community": ["2 people have contributed in total.", "2 authors made commits in the 365 days before the last commit."],
        "continuity": [
            "1 author made at least half of the commits in the 365 days before the last commit.",
            "The last commit was 660 days after the first.",
        ],
        "releases": [
            "The latest of 2 releases, v1.1, was published 201 days ago.",
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
    _, scores = scores_of(tmp_path / "a.git", [Commit(ago(1), person(1), README)], [Tag("v1.0")], {"readme"})
    evidence = [sentence for score in scores.values() for sentence in score["evidence"]]
    assert "The last commit was made 1 day ago." in evidence
    assert "1 commit was made in the last 365 days, 1 of them in the last 90 days." in evidence
    assert "1 person has contributed in total." in evidence
    assert "The latest of 1 release, v1.0, was published 1 day ago." in evidence
