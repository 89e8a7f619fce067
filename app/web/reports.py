"""What pages show of reports: the names of things, lists cut to a readable length, and reports side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.web import charts, words

Report = dict[str, Any]

AREAS = {
    "activity": "Activity",
    "community": "Community",
    "continuity": "Continuity",
    "releases": "Releases",
    "documentation": "Documentation",
    "engineering": "Engineering",
}
PRACTICES = {
    "readme": "Readme",
    "license": "Licence",
    "contributing": "Contributing guide",
    "code_of_conduct": "Code of conduct",
    "security": "Security policy",
    "changelog": "Changelog",
    "tests": "Tests",
    "ci": "Continuous integration",
    "dependencies": "Dependency manifest",
    "lock_file": "Lock file",
    "linter": "Linter configuration",
}
MAX_LANGUAGES = 7


@dataclass(frozen=True)
class Language:
    name: str
    lines: int


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class Trend:
    """One score over time: the latest value, what it was before, and curves in a box of 300 by 100."""

    label: str
    now: int | None
    before: int | None
    curves: list[str]

    @property
    def change(self) -> int | None:
        return None if self.now is None or self.before is None else self.now - self.before


def area_scores(scores: dict[str, int | None] | None) -> list[int | None]:
    """In the order of the radar's spokes."""
    return [(scores or {}).get(area) for area in AREAS]


def scores_of(report: Report) -> dict[str, int | None]:
    return {name: judged["score"] for name, judged in report["scores"].items()}


def languages(report: Report) -> list[Language]:
    """The largest first; the small ones together as `Other`, if there are many."""
    found = sorted(report["languages"].items(), key=lambda item: (-item[1], item[0]))
    if len(found) <= MAX_LANGUAGES + 1:
        return [Language(name, lines) for name, lines in found]
    rest = sum(lines for _, lines in found[MAX_LANGUAGES:])
    return [*(Language(name, lines) for name, lines in found[:MAX_LANGUAGES]), Language("Other", rest)]


def trends(history: Sequence[tuple[str | datetime, dict[str, int | None]]]) -> list[Trend]:
    """Of each score and the overall one, of at least two reports, oldest first."""
    moments = [_timestamp(as_of) for as_of, _ in history]
    found = []
    for name, label in {"overall": "Overall", **AREAS}.items():
        values = [scores.get(name) for _, scores in history]
        found.append(Trend(label, values[-1], values[-2], charts.lines(moments, values, 300, 100)))
    return found


def side_by_side(reports: Sequence[Report | None]) -> list[Row]:
    """A row for each score and each number; the best is marked where more is better and not all are equal."""
    return [_row(label, [rank(report) if report else None for report in reports], text) for label, rank, text in COMPARED] + [
        _plain_row(label, [read(report) if report else "–" for report in reports]) for label, read in STATED
    ]


def _row(label: str, values: list[Any], text: Callable[[Any], str]) -> Row:
    known = [value for value in values if value is not None]
    best = max(known) if len(set(known)) > 1 else None
    return Row(label, [Cell("–" if value is None else text(value), value is not None and value == best) for value in values])


def _plain_row(label: str, texts: list[str]) -> Row:
    return Row(label, [Cell(text) for text in texts])


def _score(name: str) -> Callable[[Report], Any]:
    return lambda report: report["scores"][name]["score"]


def _timestamp(moment: str | datetime) -> float:
    return (datetime.fromisoformat(moment) if isinstance(moment, str) else moment).timestamp()


# Label, the value by which they are ranked, how that is written. ISO moments in UTC sort by time.
COMPARED: list[tuple[str, Callable[[Report], Any], Callable[[Any], str]]] = [
    ("Overall", _score("overall"), str),
    *((label, _score(name), str) for name, label in AREAS.items()),
    ("Last commit", lambda report: report["last_commit_at"], words.day),
    ("Commits in 90 days", lambda report: report["commits_90d"], words.number),
    ("Commits in a year", lambda report: report["commits_365d"], words.number),
    ("People behind half of a year’s commits", lambda report: report["contributor_absence_factor"], words.number),
    ("Latest release", lambda report: report["releases"]["latest_at"], words.day),
    ("Practices in place", lambda report: sum(path is not None for path in report["practices"].values()), words.number),
]
# What is neither good nor bad.
STATED: list[tuple[str, Callable[[Report], str]]] = [
    ("First commit", lambda report: words.day(report["first_commit_at"]) if report["first_commit_at"] else "–"),
    ("Commits", lambda report: words.number(report["commits"])),
    ("Contributors", lambda report: words.number(report["contributors"])),
    ("Releases", lambda report: words.number(report["releases"]["count"])),
    ("Files", lambda report: words.number(report["files"])),
    ("Main language", lambda report: max(report["languages"], key=report["languages"].get, default="–")),
    ("Licence", lambda report: report["license"] or "–"),
]
