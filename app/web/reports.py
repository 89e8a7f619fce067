"""Prepares reports for pages: labels, shortened lists, trends and comparisons."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.web import charts, formatting

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
    """One score over time: the latest and the previous value, and curves in a box of 300 by 100."""

    label: str
    latest: int | None
    previous: int | None
    curves: list[str]

    @property
    def change(self) -> int | None:
        return None if self.latest is None or self.previous is None else self.latest - self.previous


def area_scores(scores: dict[str, int | None] | None) -> list[int | None]:
    """Return the scores in the order of the radar chart's spokes."""
    return [(scores or {}).get(area) for area in AREAS]


def languages(report: Report) -> list[Language]:
    """Return the languages, largest first. If there are many, the small ones are combined as `Other`."""
    found = sorted(report["languages"].items(), key=lambda item: (-item[1], item[0]))
    if len(found) <= MAX_LANGUAGES + 1:
        return [Language(name, lines) for name, lines in found]
    rest = sum(lines for _, lines in found[MAX_LANGUAGES:])
    return [*(Language(name, lines) for name, lines in found[:MAX_LANGUAGES]), Language("Other", rest)]


def trends(history: Sequence[tuple[str | datetime, dict[str, int | None]]]) -> list[Trend]:
    """Return the trends of the overall score and of each area. `history` has at least two entries, oldest first."""
    times = [_timestamp(as_of) for as_of, _ in history]
    found = []
    for name, label in {"overall": "Overall", **AREAS}.items():
        values = [scores.get(name) for _, scores in history]
        found.append(Trend(label, values[-1], values[-2], charts.polylines(times, values, 300, 100)))
    return found


def side_by_side(reports: Sequence[Report | None]) -> list[Row]:
    """Return a row per score and number. The best value is marked where higher is better and the values differ."""
    return [_row(label, [rank(report) if report else None for report in reports], text) for label, rank, text in RANKED] + [
        _plain_row(label, [read(report) if report else "–" for report in reports]) for label, read in UNRANKED
    ]


def _row(label: str, values: list[Any], text: Callable[[Any], str]) -> Row:
    known = [value for value in values if value is not None]
    best = max(known) if len(set(known)) > 1 else None
    return Row(label, [Cell("–" if value is None else text(value), value is not None and value == best) for value in values])


def _plain_row(label: str, texts: list[str]) -> Row:
    return Row(label, [Cell(text) for text in texts])


def _score(name: str) -> Callable[[Report], Any]:
    return lambda report: report["scores"][name]["score"]


def _timestamp(time: str | datetime) -> float:
    return (datetime.fromisoformat(time) if isinstance(time, str) else time).timestamp()


# (label, value to rank by, format). ISO timestamps in UTC sort by time.
RANKED: list[tuple[str, Callable[[Report], Any], Callable[[Any], str]]] = [
    ("Overall", _score("overall"), str),
    *((label, _score(name), str) for name, label in AREAS.items()),
    ("Last commit", lambda report: report["last_commit_at"], formatting.day),
    ("Commits in 90 days", lambda report: report["commits_90d"], formatting.number),
    ("Commits in a year", lambda report: report["commits_365d"], formatting.number),
    ("People behind half of a year’s commits", lambda report: report["contributor_absence_factor"], formatting.number),
    ("Latest release", lambda report: report["releases"]["latest_at"], formatting.day),
    ("Practices in place", lambda report: sum(path is not None for path in report["practices"].values()), formatting.number),
]
# Values that are neither good nor bad.
UNRANKED: list[tuple[str, Callable[[Report], str]]] = [
    ("First commit", lambda report: formatting.day(report["first_commit_at"]) if report["first_commit_at"] else "–"),
    ("Commits", lambda report: formatting.number(report["commits"])),
    ("Contributors", lambda report: formatting.number(report["contributors"])),
    ("Releases", lambda report: formatting.number(report["releases"]["count"])),
    ("Files", lambda report: formatting.number(report["files"])),
    ("Main language", lambda report: max(report["languages"], key=report["languages"].get, default="–")),
    ("Licence", lambda report: report["license"] or "–"),
]
