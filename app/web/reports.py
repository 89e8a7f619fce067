"""Prepares a report for its page: scores in order, shortened lists, positions in charts and trends.

Reports that earlier versions stored lack the newer fields. Their pages show what they have.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from app.analysis import scores, verdict
from app.repositories.service import FIRST_FORMULA_VERSION, PastAnalysis
from app.web import charts

Report = dict[str, Any]
Scores = dict[str, int | None]

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
OTHER_FILES = {
    "vendored": "vendored",
    "generated": "generated",
    "documentation": "documentation",
    "data": "data",
    "prose": "prose",
    "unknown": "in no known language",
}
MAX_SEGMENTS = 7  # of a bar of shares; the rest is combined
WEEK = timedelta(days=7)
YEAR = timedelta(days=365)


@dataclass(frozen=True)
class JudgedArea:
    """A score from 0 to 100 with its band (strong, fair, weak) and what explains it."""

    name: str
    label: str
    score: int | None
    band: str | None
    evidence: list[str]
    advice: str | None


@dataclass(frozen=True)
class Segment:
    """A part of a bar of shares."""

    label: str
    size: float


@dataclass(frozen=True)
class Week:
    start: str  # its Monday, as 2025-10-06
    commits: int
    releases: list[str]


@dataclass(frozen=True)
class WeeklyChart:
    """Commits per week, oldest first. Positions are percents of the chart's width."""

    weeks: list[Week]
    flags: list[tuple[float, str]]  # position and name of each release
    years: list[tuple[float, int]]  # position of each 1 January
    quiet_weeks: int  # how many of the latest weeks have no commits

    @property
    def busiest(self) -> Week:
        return max(self.weeks, key=lambda week: week.commits)


@dataclass(frozen=True)
class TrendPoint:
    at: datetime
    scores: Scores
    is_analysis: bool  # else computed from the history of git

    @property
    def has_scores(self) -> bool:
        return any(score is not None for score in self.scores.values())


@dataclass(frozen=True)
class Trend:
    """One score over time: the latest value, the one to compare it with, and curves in a box of 300 by 100."""

    label: str
    latest: int | None
    earlier: int | None
    earlier_at: datetime | None
    curves: list[str]

    @property
    def change(self) -> int | None:
        return None if self.latest is None or self.earlier is None else self.latest - self.earlier


def as_json(name: str, url: str | None, report: Report) -> str:
    """Return the document that is downloaded, and under the link of a shared report: `{repository: {name, url}, report}`."""
    return json.dumps({"repository": {"name": name, "url": url}, "report": report}, indent=2)


def context(report: Report, history: Sequence[PastAnalysis]) -> dict[str, Any]:
    """Return what the templates of a report need besides the report. `history` is newest first."""
    points = timeline(report, history)
    return {
        "bands": bands(report),
        "judged": weakest_first(report),
        "weekly": weekly_chart(report),
        "languages": languages(report),
        "other_files": other_files(report),
        "author_shares": author_shares(report),
        "practices": PRACTICES,
        "timeline": points,
        "trends": trends(points) if len(points) > 1 else [],
        "earlier_formulas": earlier_formulas(report, history),
    }


def formula_version(report: Report) -> int:
    return int(report.get("formula_version", FIRST_FORMULA_VERSION))


def area_scores(scores: Scores | None) -> list[int | None]:
    """Return the scores in the order of the radar chart's spokes."""
    return [(scores or {}).get(area) for area in AREAS]


def overall_band(past: PastAnalysis | None) -> str | None:
    """Return the band of the overall score of an analysis. Bands belong to the current formulas."""
    return verdict.band(past.scores.get("overall")) if past and past.formula_version == scores.FORMULA_VERSION else None


def bands(report: Report) -> dict[str, str | None]:
    """Return the band of each score, or nothing for a report without a verdict."""
    found: dict[str, str | None] = (report.get("verdict") or {}).get("bands", {})
    return found


def weakest_first(report: Report) -> list[JudgedArea]:
    """Return the areas, weakest first; those without a score follow."""
    scores, found = report["scores"], bands(report)
    areas = [
        JudgedArea(name, label, scores[name]["score"], found.get(name), scores[name]["evidence"], scores[name].get("advice"))
        for name, label in AREAS.items()
    ]
    return sorted(areas, key=lambda area: (area.score is None, area.score))


def languages(report: Report) -> list[Segment]:
    """Return the lines of text of each language, largest first. If there are many, the small ones are combined."""
    found = sorted(report["languages"].items(), key=lambda item: (-item[1], item[0]))
    return _combine_small([Segment(name, lines) for name, lines in found])


def author_shares(report: Report) -> list[Segment]:
    """Return the authors' shares of the commits, largest first, without names. If there are many, the small ones are combined."""
    return _combine_small([Segment(f"Author {place}", share) for place, share in enumerate(report.get("author_shares", []), 1)])


def other_files(report: Report) -> list[str]:
    """Return phrases like `12 vendored`, for the files that are not counted as a language."""
    found = report.get("other_files", {})
    return [f"{found[kind]:,} {label}" for kind, label in OTHER_FILES.items() if found.get(kind)]


def weekly_chart(report: Report) -> WeeklyChart | None:
    """Return the chart of a report that has commits by week, else None."""
    if not report.get("weekly"):
        return None
    weeks = [Week(week["start"], week["commits"], []) for week in report["weekly"]]
    start = _time(f"{weeks[0].start}T00:00:00Z")
    end = start + len(weeks) * WEEK

    def position(at: datetime) -> float:
        return round(100 * ((at - start) / (end - start)), 2)

    releases = [(_time(release["at"]), release["name"]) for release in reversed(report["releases"].get("recent", []))]
    flags = [(at, name) for at, name in releases if start <= at < end]
    for at, name in flags:
        weeks[(at - start) // WEEK].releases.append(name)
    januaries = [datetime(year, 1, 1, tzinfo=UTC) for year in range(start.year + 1, end.year + 1)]
    return WeeklyChart(
        weeks,
        [(position(at), name) for at, name in flags],
        [(position(january), january.year) for january in januaries if january < end],
        quiet_weeks=next((age for age, week in enumerate(reversed(weeks)) if week.commits), len(weeks)),
    )


def timeline(report: Report, history: Sequence[PastAnalysis]) -> list[TrendPoint]:
    """Return the scores over time, oldest first: from git up to the first analysis, then from the analyses.

    Analyses with other formulas than those of the report are left out. `history` is newest first and contains the report.
    """
    version = formula_version(report)
    analyses = [TrendPoint(past.as_of, past.scores, True) for past in reversed(history) if past.formula_version == version]
    quarters = [TrendPoint(_time(quarter["at"]), quarter["scores"], False) for quarter in report.get("past", [])]
    return [quarter for quarter in quarters if quarter.at < analyses[0].at and quarter.has_scores] + analyses


def trends(points: Sequence[TrendPoint]) -> list[Trend]:
    """Return the trends of the overall score and of each area. `points` has at least one entry, oldest first."""
    times = [point.at.timestamp() for point in points]
    found = []
    for name, label in {"overall": "Overall", **AREAS}.items():
        values = [point.scores.get(name) for point in points]
        earlier = _year_before_the_last([point for point in points if point.scores.get(name) is not None])
        found.append(
            Trend(
                label,
                values[-1],
                earlier.scores[name] if earlier else None,
                earlier.at if earlier else None,
                charts.polylines(times, values, 300, 100),
            )
        )
    return found


def earlier_formulas(report: Report, history: Sequence[PastAnalysis]) -> list[TrendPoint]:
    """Return the analyses whose scores cannot be compared with those of the report, newest first."""
    version = formula_version(report)
    return [TrendPoint(past.as_of, past.scores, True) for past in history if past.formula_version != version]


def _combine_small(segments: Sequence[Segment]) -> list[Segment]:
    """Return segments, largest first, of which the smallest are combined to `N others`, unless that would be only one."""
    rest = segments[MAX_SEGMENTS:] if len(segments) > MAX_SEGMENTS + 1 else []
    others = [Segment(f"{len(rest)} others", sum(segment.size for segment in rest))] if rest else []
    return [*segments[: len(segments) - len(rest)], *others]


def _year_before_the_last(points: Sequence[TrendPoint]) -> TrendPoint | None:
    """Return the newest point that is a year older than the last one, or else the oldest; None if there is only one."""
    if len(points) < 2:
        return None
    return next((point for point in reversed(points) if points[-1].at - point.at >= YEAR), points[0])


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
