"""Computes six scores and their mean from the numbers of the report, with evidence and advice for each.

`docs/analysis.md` lists the formulas and their sources.
"""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.analysis.dates import DAY_SECONDS
from app.analysis.releases import MAX_RECENT

FORMULA_VERSION = 2  # scores of different versions are never compared

# activity: days since the last commit; commits and weeks with commits of a year
ACTIVITY_POINTS = {"days": 40, "commits": 30, "weeks": 30}
FRESH_COMMIT_DAYS, STALE_COMMIT_DAYS = 30, 365
MANY_COMMITS, WEEKS = 1000, 52
# community: newcomers of a year; people of this year and the year before
COMMUNITY_POINTS = {"newcomers": 50, "returning": 50}
MANY_NEWCOMERS, MANY_RETURNING = 100, 50
# continuity: share of the top author; people behind half of the commits; newcomers who stayed; years with commits
CONTINUITY_POINTS = {"share": 40, "half": 30, "stayed": 20, "years": 10}
SMALL_SHARE, LARGE_SHARE = 0.2, 0.7
SAFE_HALF, MANY_STAYED, YEARS = 8, 20, 5
ALIVE_DAYS, ABANDONED_DAYS = 365, 730
# releases: age of the latest release; releases of two years
RELEASES_POINTS = {"days": 50, "releases": 50}
FRESH_RELEASE_DAYS, STALE_RELEASE_DAYS = 90, 730
RHYTHM_DAYS, MANY_RELEASES = 730, 12

# documentation and engineering: signs of good practice, and how many files there are
DOCUMENTATION = {"readme": 10, "license": 15, "contributing": 15, "changelog": 15, "security": 15, "code_of_conduct": 10}
DOCUMENT_FILES_POINTS, MANY_DOCUMENT_FILES = 20, 1000
ENGINEERING = {"tests": 10, "ci": 10, "dependencies": 5, "linter": 20, "lock_file": 15}
TEST_FILES_POINTS, MANY_TEST_FILES = 20, 300
CI_FILES_POINTS, MANY_CI_FILES = 20, 8

ADVICE_POINTS = 10  # advice prefers the first change that gains so many points
QUARTER = 0.25  # the share of commits in the advice on continuity
ROUNDING = 1e-6  # of shares

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
HISTORY_SCORES = SCORE_NAMES[:4]


@dataclass(frozen=True)
class Score:
    """A score from 0 to 100, or None if the report does not allow one, and the sentences that explain it."""

    score: int | None
    evidence: list[str]
    advice: str | None = None  # what would raise the score, in one sentence


Numbers = dict[str, Any]  # the report without its scores
Change = tuple[str, float]  # a sentence with `{}` for the score that the change would lead to, and its points


def scores(numbers: Numbers) -> dict[str, Score]:
    """Return the six scores and their mean, `overall`."""
    if not numbers["commits"]:
        return {name: Score(None, ["The repository has no commits."]) for name in (*SCORE_NAMES, "overall")}
    found = {
        **(_without_history() if numbers["is_shallow"] else of_history(numbers)),
        "documentation": documentation(numbers),
        "engineering": engineering(numbers),
    }
    return found | {"overall": overall(found)}


def of_history(numbers: Numbers) -> dict[str, Score]:
    """Return the scores that do not need the contents of files."""
    return {
        "activity": activity(numbers),
        "community": community(numbers),
        "continuity": continuity(numbers),
        "releases": releases(numbers),
    }


def _without_history() -> dict[str, Score]:
    reason = "The history of the repository is cut off (a shallow clone)."
    return {name: Score(None, [reason]) for name in HISTORY_SCORES}


def activity(numbers: Numbers) -> Score:
    """Return the score of how recent, how much and how steady the work of people is."""
    people = numbers["people"]
    commits, weeks = people["commits_365d"], people["active_weeks"]
    if people["last_commit_at"] is None:
        return Score(0, ["All commits were made by bots."], "Commits by people would raise this.")
    days = whole_days(people["last_commit_at"], numbers["as_of"])
    changes = [
        ("Commits in each week of a year would bring this to {}.", activity_points(0, max(commits, WEEKS), WEEKS)),
        ("A commit today would bring this to {}.", activity_points(0, commits + 1, weeks + (days >= 7 and weeks < WEEKS))),
        (
            f"{MANY_COMMITS} commits in a year, some in each week, would bring this to {{}}.",
            activity_points(0, MANY_COMMITS, WEEKS),
        ),
    ]
    recent = f", {people['commits_90d']} of them in the last 90 days" if commits else ""
    evidence = [
        f"The last commit by a person was made {ago(days)}.",
        f"People made {quantity(commits, 'commit')} in the last 365 days{recent}.",
        f"{quantity(weeks, 'week')} of the last {WEEKS} had commits.",
    ]
    return _score(activity_points(days, commits, weeks), evidence, changes)


def activity_points(days: int, commits: int, weeks: int) -> float:
    """Return the points for the days since the last commit, the commits and the weeks with commits of the last year."""
    return (
        ACTIVITY_POINTS["days"] * falling(days, FRESH_COMMIT_DAYS, STALE_COMMIT_DAYS)
        + ACTIVITY_POINTS["commits"] * logarithmic(commits, MANY_COMMITS)
        + ACTIVITY_POINTS["weeks"] * weeks / WEEKS
    )


def community(numbers: Numbers) -> Score:
    """Return the score of how many people join and stay."""
    people = numbers["people"]
    newcomers, returning = people["newcomers"], people["returning"]
    changes = []
    for extra in (1, 2, 3, 5, 10, 20, 50, 100):
        joined, stayed = community_points(newcomers + extra, returning), community_points(newcomers, returning + extra)
        changes.append((f"{more(extra, 'newcomer')} in a year would bring this to {{}}.", joined))
        changes.append((f"{more(extra, 'person', 'people')} with commits in two years running would bring this to {{}}.", stayed))
    evidence = ["Nobody made commits in the last 365 days."]
    if people["active"]:
        evidence = [
            f"{quantity(people['active'], 'person', 'people')} made commits in the last 365 days.",
            f"{newcomers} of them made their first commit in this time.",
            f"{returning} of them also made commits in the 365 days before.",
        ]
    return _score(community_points(newcomers, returning), evidence, changes)


def community_points(newcomers: int, returning: int) -> float:
    """Return the points for the newcomers of a year and the people with commits in this year and the year before."""
    return COMMUNITY_POINTS["newcomers"] * logarithmic(newcomers, MANY_NEWCOMERS) + COMMUNITY_POINTS["returning"] * logarithmic(
        returning - 1, MANY_RETURNING - 1
    )


def continuity(numbers: Numbers) -> Score:
    """Return the score of how likely the work goes on if one person stops."""
    people, shares = numbers["people"], numbers["author_shares"]
    if people["last_commit_at"] is None:
        return Score(0, ["All commits were made by bots."], "Commits by people would raise this.")
    top_share = shares[0] if shares else 1.0
    days, half = whole_days(people["last_commit_at"], numbers["as_of"]), people["half"]
    stayed, years = people["newcomers_who_stayed"], people["active_years"]
    changes = []
    if days > ALIVE_DAYS:
        text = "New commits by the same people would bring this to {}."
        changes.append((text, continuity_points(top_share, half, 0, stayed, max(1, years))))
    for extra in (1, 2, 3) if shares else ():
        shared = with_quarters(shares, extra)
        text = f"{_people_with_quarters(shares, extra)} would bring this to {{}}."
        changes.append((text, continuity_points(shared[0], half_of(shared), days, stayed, years)))
    for extra in (1, 2, 3, 5, 10, 20):
        text = f"{more(extra, 'newcomer')} who {'stays' if extra == 1 else 'stay'} for over a year would bring this to {{}}."
        changes.append((text, continuity_points(top_share, half, days, stayed + extra, years)))
    evenly = continuity_points(1 / (2 * SAFE_HALF), SAFE_HALF, days, max(stayed, MANY_STAYED), years)
    text = f"{2 * SAFE_HALF} people with equal shares, and {MANY_STAYED} newcomers who stay, would bring this to {{}}."
    changes.append((text, evenly))
    text = f"Commits in each of {YEARS} years would bring this to {{}}."
    changes.append((text, continuity_points(top_share, half, days, stayed, YEARS)))
    return _score(continuity_points(top_share, half, days, stayed, years), _evidence_of_continuity(people, shares), changes)


def _evidence_of_continuity(people: dict[str, Any], shares: list[float]) -> list[str]:
    half, stayed, years = people["half"], people["newcomers_who_stayed"], people["active_years"]
    settled = quantity(stayed, "person", "people") if stayed else "Nobody"
    if shares:
        evidence = [
            f"The top author made {percent(shares[0])} of the commits in the 365 days before the last commit.",
            "1 person made at least half of them." if half == 1 else f"{half} people together made at least half of them.",
        ]
    else:
        evidence = ["Bots made all commits in the 365 days before the last commit."]
    return [
        *evidence,
        f"{settled} who joined one to five years ago made commits in the last 365 days.",
        f"{quantity(years, 'year')} of the last five had commits.",
    ]


def _people_with_quarters(shares: list[float], extra: int) -> str:
    if extra > 1:
        return f"{('Two', 'Three')[extra - 2]} more people with a quarter of the commits each"
    has_second = len(shares) > 1 and shares[1] >= QUARTER
    return f"{'One more' if has_second or shares[0] < QUARTER else 'A second'} person with a quarter of the commits"


def with_quarters(shares: list[float], extra: int) -> list[float]:
    """Return the shares if so many more people made a quarter of the commits each, and the others the rest."""
    return sorted([*(share * (1 - extra * QUARTER) for share in shares), *[QUARTER] * extra], reverse=True)


def continuity_points(top_share: float, half: int, days: int, stayed: int, years: int) -> float:
    """Return the points for continuity.

    `top_share` is the top author's share of the commits, `half` the number of people behind half of them, `days` the days since
    the last commit, `stayed` the newcomers of earlier years who stayed, and `years` the years with commits.
    """
    shared = CONTINUITY_POINTS["share"] * falling(top_share, SMALL_SHARE, LARGE_SHARE) + CONTINUITY_POINTS["half"] * logarithmic(
        half - 1, SAFE_HALF - 1
    )
    return (
        shared * falling(days, ALIVE_DAYS, ABANDONED_DAYS)
        + CONTINUITY_POINTS["stayed"] * logarithmic(stayed, MANY_STAYED)
        + CONTINUITY_POINTS["years"] * years / YEARS
    )


def half_of(shares: list[float]) -> int:
    """Return how many of the shares, the largest first, make half of the whole."""
    return next((count for count in range(1, len(shares) + 1) if sum(shares[:count]) >= 0.5 - ROUNDING), len(shares))


def releases(numbers: Numbers) -> Score:
    """Return the score of how recent and how frequent releases are."""
    found = numbers["releases"]
    if found["latest_at"] is None:
        changes = [("A tagged release today would bring this to {}.", releases_points(0, 1))]
        return _score(0, [_without_release(numbers["tags"], found["count"])], changes)
    days, recent = whole_days(found["latest_at"], numbers["as_of"]), recent_releases(numbers)
    at_least = "At least " if recent == MAX_RECENT else ""  # the report lists no more
    evidence = [
        f"The latest of {quantity(found['count'], 'release')}, {found['latest']}, was published {ago(days)}.",
        f"{at_least}{quantity(recent, 'release was', 'releases were')} published in the last {RHYTHM_DAYS} days.",
    ]
    if (between := found["median_days_between"]) is not None:
        evidence.append(f"The median time between releases is {between} {'day' if between == 1 else 'days'}.")
    changes = [
        ("A release today would bring this to {}.", releases_points(0, recent + 1)),
        (f"{MANY_RELEASES} releases in {RHYTHM_DAYS} days would bring this to {{}}.", releases_points(0, MANY_RELEASES)),
    ]
    return _score(releases_points(days, recent), evidence, changes)


def recent_releases(numbers: Numbers) -> int:
    """Return the number of listed releases of the last 730 days."""
    return sum(whole_days(release["at"], numbers["as_of"]) < RHYTHM_DAYS for release in numbers["releases"]["recent"])


def releases_points(days: int, recent: int) -> float:
    """Return the points for the days since the latest release and the number of releases of the last 730 days."""
    return RELEASES_POINTS["days"] * falling(days, FRESH_RELEASE_DAYS, STALE_RELEASE_DAYS) + RELEASES_POINTS[
        "releases"
    ] * logarithmic(recent, MANY_RELEASES)


def _without_release(tags: int, versions: int) -> str:
    if versions:
        return f"{quantity(versions, 'release has', 'releases have')} no date."
    if tags:
        return f"There {'is' if tags == 1 else 'are'} {quantity(tags, 'tag')}, but none is a version."
    return "There are no tags, so there are no releases."


def overall(found: dict[str, Score]) -> Score:
    """Return the mean of the six scores, or no score if one of them is missing."""
    values = {name: score for name in SCORE_NAMES if (score := found[name].score) is not None}
    if len(values) < len(SCORE_NAMES):
        return Score(None, ["Without the scores of the history there is no mean."])
    listed = ", ".join(f"{name} {value}" for name, value in values.items())
    weakest = min(values, key=values.__getitem__)
    changes = [
        (f"Raising {weakest}, the lowest score, to {target} would bring this to {{}}.", _mean(values | {weakest: target}))
        for target in (40, 70, 100)
    ]
    return _score(_mean(values), [f"The mean of the six scores: {listed}."], changes, min_gain=1)


def _mean(values: dict[str, int]) -> float:
    return sum(values.values()) / len(values)


def documentation(numbers: Numbers) -> Score:
    """Return the score of the documents that users and contributors need."""
    found, missing = _practices(numbers, DOCUMENTATION)
    files = numbers["other_files"]["documentation"] + numbers["other_files"]["prose"]
    evidence = _evidence_of_practices(found, missing, DOCUMENTATION)
    evidence.append(f"{_there(files, 'file')} of documentation and prose.")
    changes = [
        (f"{_capitalized(PRACTICE_NAMES[name])} would bring this to {{}}.", documentation_points([*found, name], files))
        for name in missing
    ]
    text = f"Documentation in {MANY_DOCUMENT_FILES} files would bring this to {{}}."
    changes.append((text, documentation_points(found, max(files, MANY_DOCUMENT_FILES))))
    return _score(documentation_points(found, files), evidence, changes)


def documentation_points(found: list[str], files: int) -> float:
    """Return the points for the practices that were found and the number of files of documentation and prose."""
    return sum(DOCUMENTATION[name] for name in found) + DOCUMENT_FILES_POINTS * logarithmic(files, MANY_DOCUMENT_FILES)


def engineering(numbers: Numbers) -> Score:
    """Return the score of the signs that changes are checked and the software can be built again."""
    found, missing = _practices(numbers, ENGINEERING)
    tests, ci = numbers["practice_files"]["tests"], numbers["practice_files"]["ci"]
    evidence = _evidence_of_practices(found, missing, ENGINEERING)
    evidence.append(f"{_there(tests, 'file')} of tests and {quantity(ci, 'file')} of continuous integration.")
    changes = []
    for name in missing:
        points = engineering_points([*found, name], tests + (name == "tests"), ci + (name == "ci"))
        changes.append((f"{_capitalized(PRACTICE_NAMES[name])} would bring this to {{}}.", points))
    text = f"{MANY_TEST_FILES} files of tests would bring this to {{}}."
    if "tests" in found:
        changes.append((text, engineering_points(found, max(tests, MANY_TEST_FILES), ci)))
    text = f"{MANY_CI_FILES} files of continuous integration would bring this to {{}}."
    if "ci" in found:
        changes.append((text, engineering_points(found, tests, max(ci, MANY_CI_FILES))))
    return _score(engineering_points(found, tests, ci), evidence, changes)


def engineering_points(found: list[str], tests: int, ci: int) -> float:
    """Return the points for the practices that were found and the numbers of files of tests and continuous integration."""
    return (
        sum(ENGINEERING[name] for name in found)
        + TEST_FILES_POINTS * logarithmic(tests, MANY_TEST_FILES)
        + CI_FILES_POINTS * logarithmic(ci, MANY_CI_FILES)
    )


def _practices(numbers: Numbers, points: dict[str, int]) -> tuple[list[str], list[str]]:
    """Return the names of the practices that were found, and of those that were not."""
    found = [name for name in points if numbers["practices"][name] is not None]
    return found, [name for name in points if name not in found]


def _evidence_of_practices(found: list[str], missing: list[str], points: dict[str, int]) -> list[str]:
    evidence = [f"Found {len(found)} of {len(points)}{': ' if found else ''}{_listed(found, points)}."]
    return evidence + ([f"Missing: {_listed(missing, points)}."] if missing else [])


def _listed(names: list[str], points: dict[str, int]) -> str:
    return ", ".join(f"{PRACTICE_NAMES[name]} ({points[name]} points)" for name in names)


def _there(count: int, singular: str) -> str:
    return f"There {'is' if count == 1 else 'are'} {quantity(count, singular)}"


def _score(points: float, evidence: list[str], changes: list[Change], min_gain: int = ADVICE_POINTS) -> Score:
    """Choose as advice the first change that gains enough points, or else the one that gains most."""
    score = rounded(points)
    results = [(text, rounded(changed)) for text, changed in changes]
    enough = [result for result in results if result[1] >= score + min_gain]
    text, result = enough[0] if enough else max(results, key=lambda result: result[1], default=("", 0))
    return Score(score, evidence, text.format(result) if result > score else None)


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def more(count: int, singular: str, plural: str | None = None) -> str:
    return f"One more {singular}" if count == 1 else f"{count} more {plural or singular + 's'}"


def percent(share: float) -> str:
    return f"{rounded(share * 100)} %"


def falling(value: float, full: float, none: float) -> float:
    """Return 1 up to `full`, 0 from `none` on, and a linear interpolation in between."""
    return min(1.0, max(0.0, (none - value) / (none - full)))


def logarithmic(value: int, full: int) -> float:
    """Return log(1 + value) / log(1 + full), from 0 to 1: the first units count most."""
    return min(1.0, math.log1p(max(0, value)) / math.log1p(full))


def rounded(points: float) -> int:
    """Round halves up. Errors of floating-point numbers do not decide what a half is."""
    return math.floor(round(points, 6) + 0.5)


def whole_days(before: str, after: str) -> int:
    """Return 0 if `before` is later than `after`, as with dates in the future."""
    elapsed = datetime.fromisoformat(after) - datetime.fromisoformat(before)
    return max(0, int(elapsed.total_seconds() // DAY_SECONDS))


def ago(days: int) -> str:
    return {0: "less than a day ago", 1: "1 day ago"}.get(days, f"{days} days ago")


def quantity(count: int, singular: str, plural: str | None = None) -> str:
    return f"{count} {singular if count == 1 else plural or singular + 's'}"
