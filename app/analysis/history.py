"""What the commits say: how many, when, by how many people, and in which files."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from app.analysis.counts import Counts
from app.analysis.git import GitError, Repository, readable
from app.analysis.progress import Progress

DAY_SECONDS = 86_400
YEAR_DAYS = 365  # of the window before the last commit
RECENT_DAYS = 90
ACTIVITY_MONTHS = 60
HOTSPOTS = 10

LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z, the last that this format can write


def iso(seconds: int) -> str:
    """`2025-10-03T20:00:00Z`. A date after the year 9999, which commits may claim, is written as the end of that year."""
    return datetime.fromtimestamp(min(seconds, LAST_SECOND), UTC).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")


def seconds(text: bytes) -> int:
    """Of a date as git prints it. A commit whose date git can't read counts as one of second 0, as it does for git itself."""
    return int(text) if text.isdigit() else 0


@dataclass
class Dates:
    """Of the commits, by the committer's clock, in seconds since 1970."""

    first: int = 0
    last: int = 0
    within_90_days: int = 0
    within_365_days: int = 0
    months: Counter[int] = field(default_factory=Counter)  # by months since the year 0


def head_of(repository: Repository) -> str | None:
    """None where HEAD names a branch that does not exist."""
    try:
        repository.output("rev-parse", "--verify", "--quiet", "HEAD")
    except GitError as error:
        if error.complaint:
            raise
        return None
    return repository.output("rev-parse", "--verify", "HEAD^{commit}").decode().strip()


def commits_of(repository: Repository, head: str) -> int:
    return int(repository.output("rev-list", "--count", head, "--"))


def contributors_of(repository: Repository, head: str) -> int:
    return sum(1 for _ in repository.records("shortlog", "-sne", head, "--", end=b"\n"))


def dates_of(repository: Repository, head: str, as_of: datetime, commits: int, progress: Progress) -> Dates:
    now = int(as_of.timestamp())
    until = month_number(as_of)
    oldest_month = datetime(1, 1, 1, tzinfo=UTC) if until < ACTIVITY_MONTHS else first_day(until - ACTIVITY_MONTHS + 1)
    shown_from, shown_before = oldest_month.timestamp(), first_day(until + 1).timestamp()
    dates = Dates()
    for done, line in enumerate(repository.records("log", "--format=%ct", head, "--", end=b"\n"), 1):
        progress.advance(done, commits)
        moment = seconds(line)
        dates.first = moment if done == 1 else min(dates.first, moment)
        dates.last = max(dates.last, moment)
        dates.within_90_days += moment >= now - RECENT_DAYS * DAY_SECONDS
        dates.within_365_days += moment >= now - YEAR_DAYS * DAY_SECONDS
        if shown_from <= moment < shown_before:
            dates.months[month_number(datetime.fromtimestamp(moment, UTC))] += 1
    return dates


def activity(months: Counter[int]) -> list[dict[str, str | int]]:
    """Without gaps between the first month and the last."""
    if not months:
        return []
    return [
        {"month": f"{month // 12:04}-{month % 12 + 1:02}", "commits": months[month]}
        for month in range(min(months), max(months) + 1)
    ]


def month_number(moment: datetime) -> int:
    return moment.year * 12 + moment.month - 1


def first_day(month: int) -> datetime:
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Authors:
    """Of the 365 days before the last commit."""

    count: int
    absence_factor: int
    without_merges: int  # commits that are no merges


def authors_of(repository: Repository, head: str, last: int, commits: int, progress: Progress) -> Authors:
    authors = Counts("authors")
    without_merges = 0
    command = ("log", "--format=%ct %P%x00%aN <%aE>", head, "--")
    for done, line in enumerate(repository.records(*command, end=b"\n"), 1):
        progress.advance(done, commits)
        numbers, _, author = line.partition(b"\0")
        moment, *parents = numbers.split(b" ")
        if seconds(moment) >= last - YEAR_DAYS * DAY_SECONDS:
            authors.add(author)
            without_merges += len(parents) < 2
    commits_by_author = authors.values()
    return Authors(len(commits_by_author), absence_factor(commits_by_author), without_merges)


def absence_factor(commits_by_author: list[int]) -> int:
    """The fewest authors who together made at least half of the commits."""
    half = sum(commits_by_author) / 2
    made = 0
    for factor, commits in enumerate(sorted(commits_by_author, reverse=True), 1):
        made += commits
        if made >= half:
            return factor
    return 0


def hotspots_of(repository: Repository, head: str, last: int, expected: int, progress: Progress) -> list[dict[str, str | int]]:
    paths = Counts("changed files")
    for path in changed_paths(repository, head, last - YEAR_DAYS * DAY_SECONDS, expected, progress):
        paths.add(path)
    most = heapq.nsmallest(HOTSPOTS, paths.items(), key=lambda item: (-item[1], item[0]))
    return [{"path": readable(path), "commits": commits} for path, commits in most]


def changed_paths(repository: Repository, head: str, since: int, expected: int, progress: Progress) -> Iterator[bytes]:
    # An empty record comes before each commit's header, and a line break before the first of its paths.
    # The filter goes on after an older commit, as --since would not: dates may go backwards.
    command = ["log", "--no-merges", "--no-renames", "--name-only", "-z", "--format=%x00%H %ct"]
    if since > 0:
        command.append(f"--since-as-filter=@{since} +0000")
    header = wanted = first = False
    done = 0
    for record in repository.records(*command, head, "--", end=b"\0"):
        if not record:
            header = True
        elif header:
            wanted = seconds(record.partition(b" ")[2]) >= since
            header, first = False, True
            done += 1
            progress.advance(done, expected)
        elif wanted:
            yield record[1:] if first else record
            first = False
