"""Says in one sentence what the scores of a report mean. `docs/analysis.md` describes how the sentence is made."""

from typing import Any

from app.analysis.scores import ABANDONED_DAYS, SCORE_NAMES, percent, quantity, recent_releases, whole_days

MAX_SCORE = 100
STRONG, FAIR = 70, 40  # the lowest scores of these bands; below is weak
YEAR_DAYS = 365
QUIET_DAYS = 90
YEAR_WORDS = dict(enumerate(["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], 2))
MANY_BOT_COMMITS = 0.4  # share of all commits of the last active year

NO_LICENSE = "there is no licence"

# The first practice that is missing is named.
MISSING_DOCUMENTS = {
    "license": NO_LICENSE,
    "readme": "there is no README",
    "changelog": "there is no changelog",
    "contributing": "there is no contributing guide",
    "security": "there is no security policy",
}
MISSING_ENGINEERING = {
    "tests": "there are no tests",
    "ci": "no continuous integration is set up",
    "linter": "no linter is configured",
    "lock_file": "no lock file pins the dependencies",
}

# The headline names the first two.
STRENGTHS = {
    "activity": "well maintained",
    "releases": "released often",
    "continuity": "carried by several people",
    "community": "open to newcomers",
    "documentation": "well documented",
    "engineering": "well engineered",
}

Report = dict[str, Any]
Scores = dict[str, int]


def judge(report: Report) -> dict[str, Any]:
    """Return the headline and the band of each score of a report."""
    scores = {name: result["score"] for name, result in report["scores"].items()}
    return {"headline": headline(report), "bands": {name: band(score) for name, score in scores.items()}}


def band(score: int | None) -> str | None:
    """Return `strong`, `fair` or `weak`, or None without a score."""
    if score is None:
        return None
    return "strong" if score >= STRONG else "fair" if score >= FAIR else "weak"


def headline(report: Report) -> str:
    """Return one sentence that names the strengths and the weakest point of a report with scores."""
    if not report["commits"]:
        return "There are no commits, so there is nothing to judge."
    scores = {name: score for name in SCORE_NAMES if (score := report["scores"][name]["score"]) is not None}
    sentence = _of_files(report, scores) if report["is_shallow"] else _of_everything(report, scores)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _of_files(report: Report, scores: Scores) -> str:
    return f"the history is cut off, so only the files were judged: {_outcome(report, scores)}"


def _of_everything(report: Report, scores: Scores) -> str:
    last = report["people"]["last_commit_at"]
    days = whole_days(last, report["as_of"]) if last else None
    if days is not None and days >= ABANDONED_DAYS:
        has_bots = whole_days(report["last_commit_at"], report["as_of"]) < ABANDONED_DAYS
        return f"no commit{' by a person' if has_bots else ''} for {_years(days)}, so nobody is likely to fix faults"
    return _outcome(report, scores)


def _outcome(report: Report, scores: Scores) -> str:
    """Return strengths, weaknesses, or both. `scores` has at least one."""
    by_score = sorted(scores, key=lambda name: scores[name])
    strong = [name for name in by_score if band(scores[name]) == "strong"]
    weak = [name for name in by_score if band(scores[name]) == "weak"]
    named = weak[:2] or [name for name in by_score[:1] if name not in strong]
    risk = _risk(report)
    clauses = [weakness(name, report) for name in named]
    clauses = list(dict.fromkeys([*clauses[:1], risk, *clauses[1:]] if risk else clauses))[:2]
    weaknesses = " and ".join(clauses)
    if not named:
        lowest = by_score[0]
        return f"strong in everything that was measured{_but(risk) or _lowest(lowest, scores[lowest])}"
    if strong:
        return f"{_strengths(strong)}{_but(weaknesses)}"
    return f"{_without_strengths(report, len(weak), len(scores))}{weaknesses}"


def _without_strengths(report: Report, weak: int, scores: int) -> str:
    """Return how a sentence begins if no score is strong."""
    if report["is_shallow"] or 0 < weak < scores:
        return ""
    return "weak in everything that was measured: " if weak else "fair, but nowhere strong: "


def _but(clause: str) -> str:
    return f", but {clause}" if clause else ""


def _lowest(name: str, score: int) -> str:
    return f", with {name} as the lowest score ({score})" if score < MAX_SCORE else ""


def _strengths(strong: list[str]) -> str:
    return " and ".join([text for name, text in STRENGTHS.items() if name in strong][:2])


def _risk(report: Report) -> str:
    """Return what matters whatever the scores are, or an empty text."""
    if report["practices"]["license"] is None:
        return NO_LICENSE
    bots, people = report["bots"]["commits"], report["people"]["commits_last_year"]
    if report["is_shallow"] or bots < MANY_BOT_COMMITS * (bots + people):
        return ""
    return f"bots make {percent(bots / (bots + people))} of the commits"


def weakness(name: str, report: Report) -> str:
    """Return what is weakest about that score, as a clause."""
    return _WEAKNESSES[name](report)


def _activity(report: Report) -> str:
    people = report["people"]
    if people["last_commit_at"] is None:
        return "only bots make commits"
    days = whole_days(people["last_commit_at"], report["as_of"])
    if days > QUIET_DAYS:
        return f"the last commit was made {days * 12 // YEAR_DAYS} months ago"
    return f"people made only {quantity(people['commits_365d'], 'commit')} in a year"


def _community(report: Report) -> str:
    people = report["people"]
    if people["newcomers"] == 0:
        return "nobody new has joined for a year"
    if people["returning"] <= 1:
        return "hardly anybody stays for a second year"
    return "few people join and stay"


def _continuity(report: Report) -> str:
    shares, people = report["author_shares"], report["people"]
    if not shares:
        return "no person makes commits"
    is_current = whole_days(people["last_commit_at"], report["as_of"]) < YEAR_DAYS
    if people["half"] == 1:
        return f"one person {'makes' if is_current else 'made'} {percent(shares[0])} of the changes"
    if people["half"] <= 3:
        return f"{('two', 'three')[people['half'] - 2]} people {'make' if is_current else 'made'} half of the changes"
    return "few newcomers stay"


def _releases(report: Report) -> str:
    releases, as_of = report["releases"], report["as_of"]
    if releases["latest_at"] is None:
        return "there are no releases"
    days = whole_days(releases["latest_at"], as_of)
    if days >= YEAR_DAYS:
        return f"there was no release for {_years(days)}"
    recent = recent_releases(report)
    return f"there {'was' if recent == 1 else 'were'} only {quantity(recent, 'release')} in two years"


def _documentation(report: Report) -> str:
    return _first_missing(report, MISSING_DOCUMENTS) or "the documentation is thin"


def _engineering(report: Report) -> str:
    return _first_missing(report, MISSING_ENGINEERING) or "there are few tests and checks"


def _first_missing(report: Report, texts: dict[str, str]) -> str | None:
    return next((text for name, text in texts.items() if report["practices"][name] is None), None)


_WEAKNESSES = {
    "activity": _activity,
    "community": _community,
    "continuity": _continuity,
    "releases": _releases,
    "documentation": _documentation,
    "engineering": _engineering,
}


def _years(days: int) -> str:
    years = days // YEAR_DAYS
    return "a year" if years == 1 else f"{YEAR_WORDS.get(years, years)} years"
