"""Compares reports: a table with a row per score and number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.repositories.service import FollowedRepository
from app.web import formatting, reports
from app.web.reports import AREAS, Report


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False
    at: str | None = None  # the time of which the text is the day


@dataclass(frozen=True)
class Row:
    label: str
    cells: list[Cell]

    @property
    def differs(self) -> bool:
        return len({cell.text for cell in self.cells}) > 1


def comparable(entries: Sequence[FollowedRepository]) -> tuple[list[FollowedRepository], list[FollowedRepository]]:
    """Split entries into those that can be compared, and those whose report was made with older formulas than another one."""
    versions = [reports.formula_version(entry.report) if entry.report else None for entry in entries]
    newest = max((version for version in versions if version is not None), default=None)
    is_outdated = [version not in (None, newest) for version in versions]
    return (
        [entry for entry, outdated in zip(entries, is_outdated, strict=True) if not outdated],
        [entry for entry, outdated in zip(entries, is_outdated, strict=True) if outdated],
    )


def side_by_side(compared: Sequence[Report | None]) -> list[Row]:
    """Return a row per score and number. The best value is marked where higher is better and the values differ."""
    return [
        _row(label, [read(report) if report else None for report in compared], text, is_ranked=measures is RANKED)
        for measures in (RANKED, UNRANKED)
        for label, read, text in measures
    ]


def _row(label: str, values: list[Any], text: Callable[[Any], str], *, is_ranked: bool) -> Row:
    known = [value for value in values if value is not None]
    best = max(known) if is_ranked and len(set(known)) > 1 else None
    is_day = text is formatting.day
    return Row(
        label,
        [Cell("–") if value is None else Cell(text(value), value == best, at=value if is_day else None) for value in values],
    )


def _score(name: str) -> Callable[[Report], Any]:
    return lambda report: report["scores"][name]["score"]


# Label, value or None if there is none, and format of the value.
Measure = tuple[str, Callable[[Report], Any], Callable[[Any], str]]

# Higher is better. ISO timestamps in UTC sort by time.
RANKED: list[Measure] = [
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
UNRANKED: list[Measure] = [
    ("First commit", lambda report: report["first_commit_at"], formatting.day),
    ("Commits", lambda report: report["commits"], formatting.number),
    ("Contributors", lambda report: report["contributors"], formatting.number),
    (
        "Most active author",
        lambda report: next(iter(report.get("author_shares", [])), None),
        lambda share: formatting.percent(share, 1),
    ),
    ("Releases", lambda report: report["releases"]["count"], formatting.number),
    ("Files", lambda report: report["files"], formatting.number),
    ("Main language", lambda report: max(report["languages"], key=report["languages"].get, default=None), str),
    ("Licence", lambda report: report["license"] or None, str),
]
