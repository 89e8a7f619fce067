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
    return [_row(label, [rank(report) if report else None for report in compared], text) for label, rank, text in RANKED] + [
        _plain_row(label, [read(report) if report else "–" for report in compared]) for label, read in UNRANKED
    ]


def _row(label: str, values: list[Any], text: Callable[[Any], str]) -> Row:
    known = [value for value in values if value is not None]
    best = max(known) if len(set(known)) > 1 else None
    return Row(label, [Cell("–" if value is None else text(value), value is not None and value == best) for value in values])


def _plain_row(label: str, texts: list[str]) -> Row:
    return Row(label, [Cell(text) for text in texts])


def _score(name: str) -> Callable[[Report], Any]:
    return lambda report: report["scores"][name]["score"]


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
    ("Most active author", lambda report: formatting.percent(shares[0], 1) if (shares := report.get("author_shares")) else "–"),
    ("Releases", lambda report: formatting.number(report["releases"]["count"])),
    ("Files", lambda report: formatting.number(report["files"])),
    ("Main language", lambda report: max(report["languages"], key=report["languages"].get, default="–")),
    ("Licence", lambda report: report["license"] or "–"),
]
