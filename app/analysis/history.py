"""Reads the commits: their number, dates, authors and most frequently changed files."""

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from app.analysis.counts import BoundedCounter
from app.analysis.git import GitError, GitRepository, decode_name
from app.analysis.progress import Progress

DAY_SECONDS = 86_400
YEAR_DAYS = 365
RECENT_DAYS = 90
ACTIVITY_MONTHS = 60
MAX_HOTSPOTS = 10

MAX_TIMESTAMP = 253_402_300_799  # 9999-12-31T23:59:59Z, the maximum of `datetime`


def iso(timestamp: int) -> str:
    """Format a Unix timestamp as `2025-10-03T20:00:00Z`. Later dates than the year 9999 become the end of that year."""
    return datetime.fromtimestamp(min(timestamp, MAX_TIMESTAMP), UTC).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")


def parse_timestamp(text: bytes) -> int:
    """Parse a Unix timestamp from git. Dates that git can't read count as 0, as they do in git itself."""
    return int(text) if text.isdigit() else 0


@dataclass
class CommitDates:
    """Statistics of the committer dates. `first` and `last` are Unix timestamps."""

    first: int = 0
    last: int = 0
    within_90_days: int = 0
    within_365_days: int = 0
    months: Counter[int] = field(default_factory=Counter)  # by number of the month since the year 0


def find_head(repository: GitRepository) -> str | None:
    """Return the commit ID of HEAD, or None if its branch does not exist."""
    try:
        repository.output("rev-parse", "--verify", "--quiet", "HEAD")
    except GitError as error:
        if error.stderr:
            raise
        return None
    return repository.output("rev-parse", "--verify", "HEAD^{commit}").decode().strip()


def is_shallow(repository: GitRepository) -> bool:
    """Return whether the history is cut off, so that parents of some commits are missing."""
    return repository.output("rev-parse", "--is-shallow-repository") == b"true\n"


def count_commits(repository: GitRepository, head: str) -> int:
    return int(repository.output("rev-list", "--count", head, "--"))


def count_contributors(repository: GitRepository, head: str) -> int:
    return sum(1 for _ in repository.records("shortlog", "-sne", head, "--", end=b"\n"))


def read_dates(repository: GitRepository, head: str, as_of: datetime, commits: int, progress: Progress) -> CommitDates:
    now = int(as_of.timestamp())
    until = month_number(as_of)
    oldest_month = datetime(1, 1, 1, tzinfo=UTC) if until < ACTIVITY_MONTHS else first_day(until - ACTIVITY_MONTHS + 1)
    first_shown, end_of_shown = oldest_month.timestamp(), first_day(until + 1).timestamp()
    dates = CommitDates()
    for done, line in enumerate(repository.records("log", "--format=%ct", head, "--", end=b"\n"), 1):
        progress.advance(done, commits)
        timestamp = parse_timestamp(line)
        dates.first = timestamp if done == 1 else min(dates.first, timestamp)
        dates.last = max(dates.last, timestamp)
        dates.within_90_days += timestamp >= now - RECENT_DAYS * DAY_SECONDS
        dates.within_365_days += timestamp >= now - YEAR_DAYS * DAY_SECONDS
        if first_shown <= timestamp < end_of_shown:
            dates.months[month_number(datetime.fromtimestamp(timestamp, UTC))] += 1
    return dates


def activity(months: Counter[int]) -> list[dict[str, str | int]]:
    """Return the commits of each month from the first month with commits to the last, including months without commits."""
    if not months:
        return []
    return [
        {"month": f"{month // 12:04}-{month % 12 + 1:02}", "commits": months[month]}
        for month in range(min(months), max(months) + 1)
    ]


def month_number(date: datetime) -> int:
    return date.year * 12 + date.month - 1


def first_day(month: int) -> datetime:
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class AuthorCounts:
    """Statistics of the 365 days before the last commit."""

    count: int
    absence_factor: int
    commits_without_merges: int


def read_authors(repository: GitRepository, head: str, last: int, commits: int, progress: Progress) -> AuthorCounts:
    authors = BoundedCounter("authors")
    without_merges = 0
    command = ("log", "--format=%ct %P%x00%aN <%aE>", head, "--")
    for done, line in enumerate(repository.records(*command, end=b"\n"), 1):
        progress.advance(done, commits)
        numbers, _, author = line.partition(b"\0")
        timestamp, *parents = numbers.split(b" ")
        if parse_timestamp(timestamp) >= last - YEAR_DAYS * DAY_SECONDS:
            authors.add(author)
            without_merges += len(parents) < 2
    commits_by_author = authors.values()
    return AuthorCounts(len(commits_by_author), absence_factor(commits_by_author), without_merges)


def absence_factor(commits_by_author: list[int]) -> int:
    """Return the smallest number of authors who together made at least half of the commits."""
    half = sum(commits_by_author) / 2
    total = 0
    for factor, commits in enumerate(sorted(commits_by_author, reverse=True), 1):
        total += commits
        if total >= half:
            return factor
    return 0


def find_hotspots(
    repository: GitRepository, head: str, last: int, expected: int, progress: Progress
) -> list[dict[str, str | int]]:
    paths = BoundedCounter("changed files")
    for path in changed_paths(repository, head, last - YEAR_DAYS * DAY_SECONDS, expected, progress):
        paths.add(path)
    most = heapq.nsmallest(MAX_HOTSPOTS, paths.items(), key=lambda item: (-item[1], item[0]))
    return [{"path": decode_name(path), "commits": commits} for path, commits in most]


def changed_paths(repository: GitRepository, head: str, since: int, expected: int, progress: Progress) -> Iterator[bytes]:
    """Yield the paths of each commit since the timestamp. A path occurs once for each commit that changed it."""
    # git prints an empty record before the header of each commit, and a line break before its first path.
    # Unlike --since, --since-as-filter does not stop at the first older commit: dates are not always in order.
    command = ["log", "--no-merges", "--no-renames", "--name-only", "-z", "--format=%x00%H %ct"]
    if since > 0:
        command.append(f"--since-as-filter=@{since} +0000")
    is_header = is_recent = is_first = False
    done = 0
    for record in repository.records(*command, head, "--", end=b"\0"):
        if not record:
            is_header = True
        elif is_header:
            is_recent = parse_timestamp(record.partition(b" ")[2]) >= since
            is_header, is_first = False, True
            done += 1
            progress.advance(done, expected)
        elif is_recent:
            yield record[1:] if is_first else record
            is_first = False
