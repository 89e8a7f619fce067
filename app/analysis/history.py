"""What the commits say: how many, when, by whom, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO

from app.analysis.git import Repository

YEAR = timedelta(days=365)
QUARTER = timedelta(days=90)
MAX_MONTHS = 60
MAX_HOTSPOTS = 10
CHUNK_BYTES = 256 * 1024
LAST_SECOND = 253_402_300_799  # of the year 9999

Tick = Callable[[int], None]  # so many commits were read in this pass


@dataclass(frozen=True)
class Dates:
    first: datetime | None
    last: datetime | None
    within_90d: int  # before the time of the analysis
    within_365d: int
    months: dict[str, int]  # "2025-03" -> commits


def count_commits(repository: Repository) -> int:
    return int(repository.output("rev-list", "--count", "HEAD", "--"))


def count_contributors(repository: Repository) -> int:
    """Lines, as `shortlog` groups names and addresses."""
    with repository.stream("shortlog", "-sne", "HEAD", "--") as output:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: output.read(CHUNK_BYTES), b""))


def dates(repository: Repository, as_of: datetime, tick: Tick) -> Dates:
    """By committer date."""
    first: int | None = None
    last: int | None = None
    quarter = year = 0
    months: Counter[str] = Counter()
    now = as_of.timestamp()
    with repository.stream("log", "-z", "--format=%ct", "HEAD", "--") as output:
        for number, record in enumerate(records(output), 1):
            moment = _seconds(record)
            first = moment if first is None else min(first, moment)
            last = moment if last is None else max(last, moment)
            quarter += moment >= now - QUARTER.total_seconds()
            year += moment >= now - YEAR.total_seconds()
            months[f"{datetime.fromtimestamp(moment, UTC):%Y-%m}"] += 1
            tick(number)
    return Dates(_moment(first), _moment(last), quarter, year, dict(months))


def authors(repository: Repository, since: datetime, tick: Tick) -> Counter[bytes]:
    """Commits by author, of those with a committer date from then on."""
    found: Counter[bytes] = Counter()
    earliest = since.timestamp()
    with repository.stream("log", "-z", "--format=%ct %aN <%aE>", "HEAD", "--") as output:
        for number, record in enumerate(records(output), 1):
            moment, _, author = record.partition(b" ")
            if _seconds(moment) >= earliest:
                found[author] += 1
            tick(number)
    return found


def absence_factor(commits: Counter[bytes]) -> int:
    """The fewest authors who together made at least half of these commits."""
    half, made = commits.total() / 2, 0
    for number, (_, count) in enumerate(commits.most_common(), 1):
        made += count
        if made >= half:
            return number
    return 0


def hotspots(repository: Repository, since: datetime) -> list[tuple[bytes, int]]:
    """The files named by most commits from then on, merges left out."""
    named: Counter[bytes] = Counter()
    options = ("--no-merges", "--no-renames", "--name-only", "--no-ext-diff", f"--since-as-filter={since:%Y-%m-%dT%H:%M:%SZ}")
    with repository.stream("log", "-z", "--format=", *options, "HEAD", "--") as output:
        named.update(path for path in records(output) if path)
    return sorted(named.items(), key=lambda item: (-item[1], item[0]))[:MAX_HOTSPOTS]


def by_month(months: dict[str, int], as_of: datetime) -> list[dict[str, str | int]]:
    """Without gaps, from the first month with commits to the last, of the last MAX_MONTHS."""
    end = as_of.year * 12 + as_of.month - 1
    counts = {int(month[:4]) * 12 + int(month[5:]) - 1: count for month, count in months.items()}
    shown = {number: count for number, count in counts.items() if end - MAX_MONTHS < number <= end}
    if not shown:
        return []
    numbers = range(min(shown), max(shown) + 1)
    return [{"month": f"{number // 12:04d}-{number % 12 + 1:02d}", "commits": shown.get(number, 0)} for number in numbers]


def records(output: IO[bytes]) -> Iterator[bytes]:
    """What is separated by NUL; a part of the output at a time."""
    rest = b""
    while chunk := output.read(CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole
    if rest:
        yield rest


def _seconds(text: bytes) -> int:
    """git writes dates that no calendar has as those of second 0."""
    seconds = int(text)
    return seconds if 0 <= seconds <= LAST_SECOND else 0


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
