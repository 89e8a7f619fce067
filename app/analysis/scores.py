"""Six scores and their mean, each from the numbers of the report alone, with the sentences that say why.

`docs/analysis.md` states the formulas with their sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

DAY_SECONDS = 86_400
YEAR_DAYS = 365.25

# activity: half for the last commit, half for the commits of a year
FRESH_COMMIT_DAYS, STALE_COMMIT_DAYS = 30, 365
MANY_COMMITS = 200
# community: half for all contributors, half for those of the last active year
MANY_CONTRIBUTORS, MANY_AUTHORS = 100, 20
# continuity: most of it for how many people the work rests on, the rest for how long it has been going on
ABSENCE_POINTS = {0: 0, 1: 10, 2: 30, 3: 45, 4: 55, 5: 65, 6: 72}
MOST_ABSENCE_POINTS = 80
AGE_POINTS, FULL_AGE_YEARS = 20, 5
# releases: half for the latest one, half for the time between them
FRESH_RELEASE_DAYS, STALE_RELEASE_DAYS = 90, 730
SHORT_CADENCE_DAYS, LONG_CADENCE_DAYS = 60, 365

DOCUMENTATION = {"readme": 30, "license": 25, "contributing": 15, "changelog": 15, "security": 10, "code_of_conduct": 5}
ENGINEERING = {"tests": 30, "ci": 30, "dependencies": 15, "linter": 15, "lock_file": 10}

WORDS = {
    "readme": "a readme",
    "license": "a licence",
    "contributing": "a guide for contributors",
    "code_of_conduct": "a code of conduct",
    "security": "a security policy",
    "changelog": "a changelog",
    "tests": "tests",
    "ci": "continuous integration",
    "dependencies": "a list of dependencies",
    "lock_file": "a lock file",
    "linter": "a linter's configuration",
}
NAMES = ("activity", "community", "continuity", "releases", "documentation", "engineering")


@dataclass(frozen=True)
class Score:
    score: int | None
    evidence: list[str]


Numbers = dict[str, Any]  # the report without its scores


def scores(numbers: Numbers) -> dict[str, Score]:
    if not numbers["commits"]:
        nothing = Score(None, ["There are no commits to judge."])
        return dict.fromkeys((*NAMES, "overall"), nothing)
    found = {
        "activity": activity(numbers),
        "community": community(numbers),
        "continuity": continuity(numbers),
        "releases": releases(numbers),
        "documentation": _practices(numbers, DOCUMENTATION),
        "engineering": _practices(numbers, ENGINEERING),
    }
    return found | {"overall": overall(found)}


def activity(numbers: Numbers) -> Score:
    days = _days_between(numbers["last_commit_at"], numbers["as_of"])
    year, quarter = numbers["commits_365d"], numbers["commits_90d"]
    points = 50 * falling(days, FRESH_COMMIT_DAYS, STALE_COMMIT_DAYS) + 50 * logarithmic(year, MANY_COMMITS)
    return Score(
        whole(points),
        [
            f"The last commit was made {ago(days)}.",
            f"There {were(year, 'commit')} in the last 365 days, {quarter} of them in the last 90.",
        ],
    )


def community(numbers: Numbers) -> Score:
    contributors, authors = numbers["contributors"], numbers["authors_365d"]
    points = 50 * logarithmic(contributors - 1, MANY_CONTRIBUTORS - 1) + 50 * logarithmic(authors - 1, MANY_AUTHORS - 1)
    return Score(
        whole(points),
        [
            f"{some(contributors, 'person has', 'people have')} contributed in all.",
            f"{some(authors, 'author', 'authors')} made the commits of the 365 days before the last one.",
        ],
    )


def continuity(numbers: Numbers) -> Score:
    factor = numbers["contributor_absence_factor"]
    years = _days_between(numbers["first_commit_at"], numbers["last_commit_at"]) / YEAR_DAYS
    points = ABSENCE_POINTS.get(factor, MOST_ABSENCE_POINTS) + AGE_POINTS * min(1.0, years / FULL_AGE_YEARS)
    who = "One author alone" if factor == 1 else f"{factor} authors together"
    return Score(
        whole(points),
        [
            f"{who} made half of the commits of the 365 days before the last one.",
            f"The history spans {years:.1f} years.",
        ],
    )


def releases(numbers: Numbers) -> Score:
    found = numbers["releases"]
    if not found["count"]:
        return Score(0, [f"None of the {numbers['tags']} tags is a version." if numbers["tags"] else "There are no tags."])
    days, between = _days_between(found["latest_at"], numbers["as_of"]), found["median_days_between"]
    points = 50 * falling(days, FRESH_RELEASE_DAYS, STALE_RELEASE_DAYS)
    evidence = [f"The latest of {some(found['count'], 'release', 'releases')}, {found['latest']}, was made {ago(days)}."]
    if between is None:
        evidence.append("With a single release there is no time between releases.")
    else:
        points += 50 * falling(between, SHORT_CADENCE_DAYS, LONG_CADENCE_DAYS)
        evidence.append(f"The median time between two releases is {between:g} {'day' if between == 1 else 'days'}.")
    return Score(whole(points), evidence)


def overall(found: dict[str, Score]) -> Score:
    values = [found[name].score or 0 for name in NAMES]
    return Score(whole(sum(values) / len(values)), [f"This is the mean of the six scores: {', '.join(map(str, values))}."])


def _practices(numbers: Numbers, worth: dict[str, int]) -> Score:
    present = [name for name in worth if numbers["practices"][name]]
    missing = [name for name in worth if not numbers["practices"][name]]
    evidence = [f"Found: {_enumerated(present)}."] if present else []
    evidence += [f"Missing: {_enumerated(missing)}."] if missing else []
    return Score(sum(worth[name] for name in present), evidence)


def _enumerated(names: list[str]) -> str:
    *others, last = (WORDS[name] for name in names)
    return f"{', '.join(others)} and {last}" if others else last


def falling(value: float, full: float, none: float) -> float:
    """1 up to `full`, 0 from `none` on, a straight line between."""
    return min(1.0, max(0.0, (none - value) / (none - full)))


def logarithmic(value: float, full: float) -> float:
    """0 for nothing, 1 from `full` on: the first ones count most."""
    return min(1.0, math.log1p(max(0.0, value)) / math.log1p(full))


def whole(points: float) -> int:
    return math.floor(points + 0.5)


def _days_between(before: str, after: str) -> int:
    """Whole days; none for a date that lies in the future."""
    seconds = (datetime.fromisoformat(after) - datetime.fromisoformat(before)).total_seconds()
    return max(0, int(seconds // DAY_SECONDS))


def ago(days: int) -> str:
    return {0: "less than a day ago", 1: "a day ago"}.get(days, f"{days} days ago")


def some(count: int, singular: str, plural: str) -> str:
    return f"{count} {singular if count == 1 else plural}"


def were(count: int, what: str) -> str:
    return f"was one {what}" if count == 1 else f"were {count} {what}s"
