"""Random reports without scores, whose numbers agree with each other."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

AS_OF = datetime(2026, 8, 22, 12, tzinfo=UTC)
PRACTICES = [
    *("readme", "license", "contributing", "code_of_conduct", "security", "changelog"),
    *("tests", "ci", "dependencies", "lock_file", "linter"),
]


def ago(days: float) -> str:
    return (AS_OF - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def random_report(choose: random.Random) -> dict[str, Any]:
    authors = [choose.randint(1, 300) for _ in range(choose.choice([0, 1, 1, 2, 3, 10, 60]))]
    bots = choose.choice([0, 0, 10, 300]) if authors else 10
    last = choose.choice([0, 1, 20, 100, 300, 400, 800, 3000])
    has_people = bool(authors) or choose.random() < 0.5  # who may have left before the last active year
    active = len(authors) if last < 365 else 0
    newcomers = choose.randint(0, active)
    commits_365d = sum(authors) if active else 0
    releases = [{"name": f"1.{n}", "at": ago(last + n * 60)} for n in range(choose.choice([0, 0, 1, 5, 30]))]
    practices = {name: name if choose.random() < 0.6 else None for name in PRACTICES}
    return {
        "as_of": ago(0),
        "is_shallow": choose.random() < 0.1,
        "commits": 0 if choose.random() < 0.02 else 1000,
        "last_commit_at": ago(last),
        "author_shares": sorted((number / sum(authors) for number in authors), reverse=True),
        "bots": {"authors": int(bots > 0), "commits": bots},
        "people": {
            "last_commit_at": ago(last if authors else last + 400) if has_people else None,
            "commits_last_year": sum(authors),
            "commits_365d": commits_365d,
            "commits_90d": choose.randint(0, commits_365d),
            "active_weeks": choose.randint(1, 52) if active else 0,
            "active_years": choose.randint(1, 5) if authors and last < 1825 else 0,
            "half": half(authors),
            "active": active,
            "newcomers": newcomers,
            "returning": choose.randint(0, active - newcomers),
            "newcomers_who_stayed": choose.randint(0, active - newcomers),
        },
        "tags": len(releases),
        "releases": {
            "count": len(releases),
            "latest": releases[0]["name"] if releases else None,
            "latest_at": releases[0]["at"] if releases else None,
            "median_days_between": 60.0 if len(releases) > 1 else None,
            "recent": releases,
        },
        "other_files": {"documentation": choose.choice([0, 1, 20, 2000]), "prose": choose.choice([0, 3])},
        "practices": practices,
        "practice_files": {
            "tests": choose.choice([1, 20, 500]) if practices["tests"] else 0,
            "ci": choose.choice([1, 3, 12]) if practices["ci"] else 0,
        },
    }


def half(numbers: list[int]) -> int:
    ordered = sorted(numbers, reverse=True)
    return next((count for count in range(1, len(ordered) + 1) if sum(ordered[:count]) * 2 >= sum(ordered)), 0)
