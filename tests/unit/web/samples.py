"""Reports as they are stored."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from app.repositories.service import PastAnalysis
from app.web.reports import AREAS

AS_OF = datetime(2025, 10, 3, 20, tzinfo=UTC)
LAST_MONDAY = date(2025, 9, 29)


def report(**changes: Any) -> dict[str, Any]:
    """Return a report of the first formulas, which lacks what later ones have."""
    scores = dict.fromkeys(["overall", *AREAS], 50) | changes.pop("scores", {})
    return {
        "as_of": "2025-10-03T20:00:00Z",
        "head": "1" * 40,
        "is_shallow": False,
        "tags": 9,
        "hotspots": [],
        "activity": [{"month": "2025-10", "commits": 3}],
        "commits": 12_345,
        "commits_90d": 3,
        "commits_365d": 40,
        "contributors": 7,
        "contributor_absence_factor": 2,
        "first_commit_at": "2020-01-01T00:00:00Z",
        "last_commit_at": "2025-10-03T12:05:00Z",
        "releases": {"count": 4, "latest": "1.2", "latest_at": "2025-05-01T00:00:00Z", "median_days_between": 30},
        "files": 100,
        "languages": {"Python": 900, "HTML": 100},
        "license": "MIT",
        "practices": {"readme": "README.md", "linter": None},
        "scores": {name: {"score": score, "evidence": []} for name, score in scores.items()},
        **changes,
    }


EMPTY = report(
    commits=0,
    first_commit_at=None,
    last_commit_at=None,
    releases={"count": 0, "latest": None, "latest_at": None, "median_days_between": None},
    languages={},
    license=None,
    scores=dict.fromkeys(["overall", *AREAS]),
)


def judged_report(**changes: Any) -> dict[str, Any]:
    """A report with a verdict. Its activity is weak and its community strong; the other scores are fair."""
    found = report(scores={"activity": 20, "community": 80})
    for name, result in found["scores"].items():
        result["advice"] = None if name == "overall" else f"Advice on {name}."
    bands = {name: "weak" if name == "activity" else "strong" if name == "community" else "fair" for name in found["scores"]}
    found["releases"]["recent"] = [{"name": "1.2", "at": "2025-05-01T00:00:00Z"}, {"name": "0.1", "at": "2019-01-01T00:00:00Z"}]
    del found["activity"]
    return {
        **found,
        "formula_version": 2,
        "author_shares": [0.5, 0.3, 0.2],
        "bots": {"authors": 1, "commits": 12},
        "weekly": [week(age, 5 if age > 30 else 0) for age in range(260, -1, -1)],
        "past": [quarter("2025-06-30T23:59:59Z", 10), quarter("2025-09-30T23:59:59Z", None)],
        "other_files": {"vendored": 1200, "generated": 0, "documentation": 40},
        "licenses": [{"path": "LICENSE", "spdx_id": "MIT"}, {"path": "COPYING", "spdx_id": None}],
        "verdict": {"headline": "Many people take part, but the last commit is old.", "bands": bands},
        **changes,
    }


def week(age: int, commits: int) -> dict[str, Any]:
    return {"start": str(LAST_MONDAY - timedelta(weeks=age)), "commits": commits}


def quarter(at: str, score: int | None) -> dict[str, Any]:
    known = dict.fromkeys(["activity", "community", "continuity", "releases"], score)
    return {"at": at, "scores": {**known, "documentation": None, "engineering": None, "overall": None}}


def past(days_ago: int, score: int | None, version: int = 2) -> PastAnalysis:
    return PastAnalysis(days_ago, AS_OF - timedelta(days=days_ago), dict.fromkeys(["overall", *AREAS], score), version)
