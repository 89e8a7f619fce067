"""Which notifications an analysis causes, and who gets them.

A report is compared with what the followers were last notified of, not with the report before it. So a slow change is noticed in
the end, and a number that moves back and forth around a threshold is not news each day.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any

from app.repositories.store import FIRST_FORMULA_VERSION, Analysis, Audience, Repository

MIN_SCORE_CHANGE = 10  # points
MIN_FAILURES = 2  # failed daily analyses in a row before all followers are notified
MIN_SILENCE_DAYS = 30
SILENCE_FACTOR = 5  # times the median pause
BACKPORT_TOLERANCE = timedelta(days=30)  # a tag may be published some time after it was created
KEPT_RELEASES = 300
MAX_PER_SUBJECT, SUBJECT_PERIOD = 2, timedelta(days=7)  # what changes more often than this moves back and forth
MAX_ERROR_LENGTH = 500

Report = dict[str, Any]


@dataclass(frozen=True)
class NotificationDraft:
    type: str
    title: str
    data: dict[str, Any]
    recipients: frozenset[int]


@dataclass(frozen=True)
class Told:
    """The knowledge of the followers of a repository. It is stored as JSON, so a field that is added needs a default."""

    formula_version: int | None = None  # None: there is no report yet
    scores: dict[str, int] = field(default_factory=dict)
    bands: dict[str, str | None] = field(default_factory=dict)
    left_bands: dict[str, str | None] = field(default_factory=dict)  # the bands before their last notified changes
    license: str | None = None
    releases: list[str] = field(default_factory=list)  # names, newest last
    silent_since: str | None = None  # the time of the last commit of a repository that is silent
    failures: int = 0  # analyses in a row
    failure_told_to: list[int] = field(default_factory=list)  # requesters who were notified that the analyses fail
    is_failure_told: bool = False  # to all followers
    times: dict[str, list[str]] = field(default_factory=dict)  # when a subject last changed for the followers

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Told":
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def after_report(self, report: Report) -> "Told":
        """Return what followers know who have seen this report."""
        scores = {name: score for name, score in _scores(report).items() if score is not None}
        return replace(
            self,
            formula_version=_formula_version(report),
            scores=scores,
            bands={name: _bands(report).get(name) for name in scores},
            left_bands={},
            license=report.get("license"),
            releases=_merge(self.releases, _release_names(report)),
            silent_since=report["last_commit_at"] if is_silent(report) else None,
        )


def drafts_of_success(
    repository: Repository, analysis: Analysis, report: Report, previous: Report | None, told: Told, audience: Audience
) -> tuple[list[NotificationDraft], Told]:
    """Return the notifications of a new report, and what the followers know after it."""
    about = _about(repository, analysis)
    answered = audience.requesters if previous else audience.followers
    drafts = [_success(about, report, answered)]
    told = replace(told, failures=0, failure_told_to=[], is_failure_told=False)
    if previous is None:
        return drafts, told.after_report(report)
    if told.formula_version is None:  # the previous report was made before this was stored
        told = told.after_report(previous)
    comparison = _Comparison(about, report, previous, told, audience.followers - audience.newcomers)
    # Other formulas give other numbers: that is no change of the repository.
    has_same_formulas = told.formula_version == _formula_version(report)
    if has_same_formulas:
        comparison.compare_scores()
        comparison.compare_license()
        comparison.compare_pauses()
    comparison.compare_releases()
    told = comparison.told if has_same_formulas else comparison.told.after_report(report)
    return [*drafts, *comparison.drafts], told


def drafts_of_failure(
    repository: Repository, analysis: Analysis, error: str, told: Told, audience: Audience
) -> tuple[list[NotificationDraft], Told]:
    """Return the notifications of a failed analysis, and what the followers know after it.

    Users who requested the analysis are notified at once; other followers once, when daily analyses fail repeatedly.
    """
    told = replace(told, failures=told.failures + 1)
    data = {**_about(repository, analysis), "error": error[:MAX_ERROR_LENGTH]}
    if audience.requesters:
        title = f"Analysis of {repository.name} failed"
        told = replace(told, failure_told_to=sorted({*told.failure_told_to, *audience.requesters}))
        return [NotificationDraft("analysis.failed", title, data, audience.requesters)], told
    if told.failures < MIN_FAILURES or told.is_failure_told:
        return [], told
    told = replace(told, is_failure_told=True)
    told, is_news = _count_change(told, "failure", analysis.requested_at)
    recipients = audience.followers - frozenset(told.failure_told_to)
    title = f"The last {told.failures} analyses of {repository.name} failed"
    return [NotificationDraft("analysis.failed", title, data, recipients)] if is_news else [], told


def is_silent(report: Report) -> bool:
    """Return whether the last commit is five times the median pause ago, and at least 30 days."""
    days, pause = _days_without_commit(report), report.get("median_pause_days")
    return days is not None and pause is not None and days >= max(MIN_SILENCE_DAYS, SILENCE_FACTOR * pause)


class _Comparison:
    """Compares a report with what the followers know: collects notifications, and what they know after them."""

    def __init__(self, about: dict[str, Any], report: Report, previous: Report, told: Told, recipients: frozenset[int]) -> None:
        self.told = told
        self.drafts: list[NotificationDraft] = []
        self._about = about
        self._name = about["name"]
        self._report = report
        self._previous = previous
        self._recipients = recipients

    def compare_releases(self) -> None:
        """Notify of releases whose names are new, which excludes tags that were deleted and created again."""
        earliest = _earliest_news(self._previous)
        known = set(self.told.releases)
        new = [one for one in _releases(self._report) if one["name"] not in known and _text(one["at"]) >= earliest]
        self.told = replace(self.told, releases=_merge(self.told.releases, _release_names(self._report)))
        if not new:
            return
        latest = new[0]
        others = f" and {len(new) - 1} other release{'' if len(new) == 2 else 's'}" if len(new) > 1 else ""
        data = {"release": latest["name"], "released_at": latest["at"], "releases": [one["name"] for one in new]}
        self._add("release.found", f"{self._name} released {latest['name']}{others}", data)

    def compare_scores(self) -> None:
        changes = []
        for name, after in _scores(self._report).items():
            if after is None:
                continue
            before, band = self.told.scores.get(name), _bands(self._report).get(name)
            if before is None:
                self._remember_score(name, after, band, left=None)
            elif self._is_score_change(name, before, after, band) and self._is_news(name):
                changes.append(_score_change(name, before, after, self.told.bands.get(name), band))
                self._remember_score(name, after, band, left=self.told.bands.get(name))
        if changes:
            self._add("score.changed", f"{self._name}: {_describe(changes)}", {"changes": changes})

    def compare_license(self) -> None:
        before, after = self.told.license, self._report.get("license")
        if before == after or not self._is_news("license"):
            return
        self.told = replace(self.told, license=after)
        match before, after:
            case None, _:
                title = f"{self._name} now has the licence {after}"
            case _, None:
                title = f"{self._name} no longer has a licence that is recognised; it was {before}"
            case _:
                title = f"{self._name} changed its licence from {before} to {after}"
        self._add("license.changed", title, {"before": before, "after": after})

    def compare_pauses(self) -> None:
        last = self._report.get("last_commit_at")
        since = self.told.silent_since
        if since is None and is_silent(self._report):
            days = int(_days_without_commit(self._report) or 0)
            self.told = replace(self.told, silent_since=last)
            data = {"last_commit_at": last, "days": days, "median_pause_days": self._report["median_pause_days"]}
            self._add("repository.silent", f"{self._name} has gone silent: no commit for {days} days", data)
        elif since is not None and last is not None and last > since and not is_silent(self._report):
            self.told = replace(self.told, silent_since=None)
            data = {"last_commit_at": last, "silent_since": since}
            self._add("repository.active", f"{self._name} is active again: the first commits since {_day(since)}", data)

    def _is_score_change(self, name: str, before: int, after: int, band: str | None) -> bool:
        if abs(after - before) >= MIN_SCORE_CHANGE:
            return True
        known = self.told.bands.get(name)
        # A score that returns to its former band has to move further: it may lie on the threshold.
        return band != known and band is not None and known is not None and band != self.told.left_bands.get(name)

    def _remember_score(self, name: str, score: int, band: str | None, left: str | None) -> None:
        left = left if left != band else self.told.left_bands.get(name)
        self.told = replace(
            self.told,
            scores={**self.told.scores, name: score},
            bands={**self.told.bands, name: band},
            left_bands={**self.told.left_bands, name: left},
        )

    def _is_news(self, subject: str) -> bool:
        self.told, is_news = _count_change(self.told, subject, datetime.fromisoformat(self._report["as_of"]))
        return is_news

    def _add(self, type: str, title: str, data: dict[str, Any]) -> None:
        self.drafts.append(NotificationDraft(type, title, {**self._about, **data}, self._recipients))


def _count_change(told: Told, subject: str, now: datetime) -> tuple[Told, bool]:
    """Record a change of a subject if it is news, and return whether it is. After two in a week, the next is postponed."""
    recent = [time for time in told.times.get(subject, []) if now - datetime.fromisoformat(time) < SUBJECT_PERIOD]
    is_news = len(recent) < MAX_PER_SUBJECT
    times = [*recent, now.isoformat()] if is_news else recent
    return replace(told, times={**told.times, subject: times}), is_news


def _success(about: dict[str, Any], report: Report, recipients: frozenset[int]) -> NotificationDraft:
    scores = _scores(report)
    overall = scores["overall"]
    reason = "its history is cut off" if report["commits"] else "it has no commits"
    result = f"no score, because {reason}" if overall is None else f"overall score {overall} of 100"
    title = f"Analysis of {about['name']} finished: {result}"
    return NotificationDraft("analysis.succeeded", title, {**about, "scores": scores}, recipients)


def _about(repository: Repository, analysis: Analysis) -> dict[str, Any]:
    return {"repository_id": repository.id, "analysis_id": analysis.id, "name": repository.name}


def _formula_version(report: Report) -> int:
    return int(report.get("formula_version", FIRST_FORMULA_VERSION))


def _scores(report: Report) -> dict[str, int | None]:
    return {name: result["score"] for name, result in report["scores"].items()}


def _bands(report: Report) -> dict[str, str | None]:
    """Return the bands of the scores; reports of formula version 1 have none."""
    return dict((report.get("verdict") or {}).get("bands") or {})


def _releases(report: Report) -> list[dict[str, Any]]:
    """Return the releases of a report, newest first; reports of formula version 1 have only the latest."""
    releases = report["releases"]
    recent = list(releases.get("recent") or ())
    if releases["latest"] and all(one["name"] != releases["latest"] for one in recent):
        recent.insert(0, {"name": releases["latest"], "at": releases["latest_at"]})
    return recent


def _release_names(report: Report) -> list[str]:
    return [one["name"] for one in reversed(_releases(report))]


def _earliest_news(previous: Report) -> str:
    """Return the time from which a release is news: older ones were only tagged later, or followed a deleted one.

    A release of an older branch may be older than the latest one. UTC timestamps can be compared as text.
    """
    if "recent" not in previous["releases"]:  # formula version 1: only the latest release is known
        return _text(previous["releases"]["latest_at"])
    published = datetime.fromisoformat(previous["as_of"]) - BACKPORT_TOLERANCE
    latest_at = _text(previous["releases"]["latest_at"])
    return min(latest_at, published.strftime("%Y-%m-%dT%H:%M:%SZ"))


def _merge(known: list[str], names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*known, *names]))[-KEPT_RELEASES:]


def _days_without_commit(report: Report) -> float | None:
    last = report.get("last_commit_at")
    if last is None:
        return None
    return (datetime.fromisoformat(report["as_of"]) - datetime.fromisoformat(last)) / timedelta(days=1)


def _score_change(name: str, before: int, after: int, old_band: str | None, new_band: str | None) -> dict[str, Any]:
    return {"score": name, "before": before, "after": after, "before_band": old_band, "after_band": new_band}


def _describe(changes: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{change['score']} {'rose' if change['after'] > change['before'] else 'fell'}"
        f" from {_with_band(change, 'before')} to {_with_band(change, 'after')}"
        for change in changes
    )


def _with_band(change: dict[str, Any], which: str) -> str:
    """Return a score, with its band if the band has changed."""
    is_same = change["before_band"] == change["after_band"] or not (change["before_band"] and change["after_band"])
    return str(change[which]) if is_same else f"{change[which]} ({change[f'{which}_band']})"


def _text(timestamp: str | None) -> str:
    return timestamp or ""


def _day(timestamp: str) -> str:
    when = datetime.fromisoformat(timestamp)
    return f"{when.day} {when:%B %Y}"
