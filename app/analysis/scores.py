"""Computes six scores and their mean from the numbers of the report, with the evidence for each.

`docs/analysis.md` lists the formulas and their sources.
"""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

DAY_SECONDS = 86_400
HALF = 50  # points; most scores consist of two halves

# activity: age of the last commit; commits of the last 365 days
FRESH_COMMIT_DAYS, STALE_COMMIT_DAYS = 30, 365
MANY_COMMITS = 200
# community: all contributors; authors of the last active year
MANY_CONTRIBUTORS, MANY_AUTHORS = 100, 20
# continuity: contributor absence factor; age of the project
ABSENCE_POINTS, SAFE_ABSENCE_FACTOR = 80, 8
AGE_POINTS, FULL_AGE_DAYS = 20, 5 * 365
# releases: age of the latest release; time between releases
FRESH_RELEASE_DAYS, STALE_RELEASE_DAYS = 90, 730
SHORT_CADENCE_DAYS, LONG_CADENCE_DAYS = 60, 365

DOCUMENTATION = {"readme": 30, "license": 25, "contributing": 15, "changelog": 15, "security": 10, "code_of_conduct": 5}
ENGINEERING = {"tests": 30, "ci": 30, "dependencies": 15, "linter": 15, "lock_file": 10}

PRACTICE_NAMES = {
    "readme": "a README",
    "license": "a licence",
    "contributing": "a contributing guide",
    "code_of_conduct": "a code of conduct",
    "security": "a security policy",
    "changelog": "a changelog",
    "tests": "tests",
    "ci": "continuous integration",
    "dependencies": "a dependency manifest",
    "lock_file": "a lock file",
    "linter": "a linter configuration",
}
SCORE_NAMES = ("activity", "community", "continuity", "releases", "documentation", "engineering")


@dataclass(frozen=True)
class Score:
    score: int | None
    evidence: list[str]


Numbers = dict[str, Any]  # the report without its scores


def scores(numbers: Numbers) -> dict[str, Score]:
    if not numbers["commits"]:
        return {name: Score(None, ["The repository has no commits."]) for name in (*SCORE_NAMES, "overall")}
    found = {
        **(_without_history() if numbers["is_shallow"] else _of_history(numbers)),
        "documentation": _practices(numbers, DOCUMENTATION),
        "engineering": _practices(numbers, ENGINEERING),
    }
    return found | {"overall": overall(found)}


def _of_history(numbers: Numbers) -> dict[str, Score]:
    return {
        "activity": activity(numbers),
        "community": community(numbers),
        "continuity": continuity(numbers),
        "releases": releases(numbers),
    }


def _without_history() -> dict[str, Score]:
    reason = "The history of the repository is cut off (a shallow clone)."
    return {name: Score(None, [reason]) for name in ("activity", "community", "continuity", "releases")}


def activity(numbers: Numbers) -> Score:
    days = whole_days(numbers["last_commit_at"], numbers["as_of"])
    year, quarter = numbers["commits_365d"], numbers["commits_90d"]
    points = HALF * falling(days, FRESH_COMMIT_DAYS, STALE_COMMIT_DAYS) + HALF * logarithmic(year, MANY_COMMITS)
    return Score(
        rounded(points),
        [
            f"The last commit was made {ago(days)}.",
            f"{quantity(year, 'commit was', 'commits were')} made in the last 365 days, {quarter} of them in the last 90 days.",
        ],
    )


def community(numbers: Numbers) -> Score:
    contributors, authors = numbers["contributors"], numbers["authors_last_year"]
    points = HALF * logarithmic(contributors - 1, MANY_CONTRIBUTORS - 1) + HALF * logarithmic(authors - 1, MANY_AUTHORS - 1)
    return Score(
        rounded(points),
        [
            f"{quantity(contributors, 'person has', 'people have')} contributed in total.",
            f"{quantity(authors, 'author')} made commits in the 365 days before the last commit.",
        ],
    )


def continuity(numbers: Numbers) -> Score:
    factor = numbers["contributor_absence_factor"]
    days = whole_days(numbers["first_commit_at"], numbers["last_commit_at"])
    points = ABSENCE_POINTS * logarithmic(factor - 1, SAFE_ABSENCE_FACTOR - 1) + AGE_POINTS * min(1.0, days / FULL_AGE_DAYS)
    return Score(
        rounded(points),
        [
            f"{quantity(factor, 'author')} together made at least half of the commits in the 365 days before the last commit."
            if factor > 1
            else "1 author made at least half of the commits in the 365 days before the last commit.",
            f"The last commit was {quantity(days, 'day')} after the first.",
        ],
    )


def releases(numbers: Numbers) -> Score:
    found = numbers["releases"]
    if found["latest_at"] is None:
        return Score(0, [_without_release(numbers["tags"], found["count"])])
    days, between = whole_days(found["latest_at"], numbers["as_of"]), found["median_days_between"]
    points = HALF * falling(days, FRESH_RELEASE_DAYS, STALE_RELEASE_DAYS)
    evidence = [f"The latest of {quantity(found['count'], 'release')}, {found['latest']}, was published {ago(days)}."]
    if between is None:
        evidence.append("Only one release has a date, so there is no time between releases.")
    else:
        points += HALF * falling(between, SHORT_CADENCE_DAYS, LONG_CADENCE_DAYS)
        evidence.append(f"The median time between releases is {between} {'day' if between == 1 else 'days'}.")
    return Score(rounded(points), evidence)


def _without_release(tags: int, versions: int) -> str:
    if versions:
        return f"{quantity(versions, 'release has', 'releases have')} no date."
    if tags:
        return f"There {'is' if tags == 1 else 'are'} {quantity(tags, 'tag')}, but none is a version."
    return "There are no tags, so there are no releases."


def overall(found: dict[str, Score]) -> Score:
    values = {name: score for name in SCORE_NAMES if (score := found[name].score) is not None}
    if len(values) < len(SCORE_NAMES):
        return Score(None, ["Without the scores of the history there is no mean."])
    listed = ", ".join(f"{name} {value}" for name, value in values.items())
    return Score(rounded(sum(values.values()) / len(values)), [f"The mean of the six scores: {listed}."])


def _practices(numbers: Numbers, points: dict[str, int]) -> Score:
    found = [name for name in points if numbers["practices"][name] is not None]
    missing = [name for name in points if numbers["practices"][name] is None]
    evidence = [f"Found {len(found)} of {len(points)}{': ' if found else ''}{_listed(found, points)}."]
    evidence += [f"Missing: {_listed(missing, points)}."] if missing else []
    return Score(sum(points[name] for name in found), evidence)


def _listed(names: list[str], points: dict[str, int]) -> str:
    return ", ".join(f"{PRACTICE_NAMES[name]} ({points[name]} points)" for name in names)


def falling(value: float, full: float, none: float) -> float:
    """Return 1 up to `full`, 0 from `none` on, and a linear interpolation in between."""
    return min(1.0, max(0.0, (none - value) / (none - full)))


def logarithmic(value: int, full: int) -> float:
    """Return log(1 + value) / log(1 + full), from 0 to 1: the first units count most."""
    return min(1.0, math.log1p(max(0, value)) / math.log1p(full))


def rounded(points: float) -> int:
    """Round halves up."""
    return math.floor(points + 0.5)


def whole_days(before: str, after: str) -> int:
    """Return 0 if `before` is later than `after`, as with dates in the future."""
    elapsed = datetime.fromisoformat(after) - datetime.fromisoformat(before)
    return max(0, int(elapsed.total_seconds() // DAY_SECONDS))


def ago(days: int) -> str:
    return {0: "less than a day ago", 1: "1 day ago"}.get(days, f"{days} days ago")


def quantity(count: int, singular: str, plural: str | None = None) -> str:
    return f"{count} {singular if count == 1 else plural or singular + 's'}"
