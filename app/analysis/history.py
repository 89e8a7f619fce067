"""Reads the commits: their number, dates, authors and most frequently changed files."""

import heapq
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from statistics import median

from app.analysis import people
from app.analysis.counts import BoundedCounter, NumberedNames, RepositoryTooLarge
from app.analysis.dates import DAY_SECONDS, QUARTER_SECONDS, YEAR_SECONDS, first_day, parse_timestamp, week_number
from app.analysis.git import GitError, GitRepository, decode_name
from app.analysis.people import Commits, People, smallest_majority
from app.analysis.progress import Progress

WEEKS = 261  # five years
QUARTERS = 8
PAUSE_YEARS = 5  # the pace of earlier years says little about the present one
MAX_HOTSPOTS = 10
MAX_COMMITS = 5_000_000  # each takes up to 150 bytes while the commits are ordered
UNKNOWN_COMMITS = 20_000  # the number of commits is not known before the end; with so many, half of the progress is shown

MAX_STORED_TIMESTAMP = 2**62  # a forged date may be too large for an array of 64-bit numbers


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


def quarter_ends(as_of: datetime) -> list[int]:
    """Return the last seconds, as Unix timestamps, of the eight quarters that ended before `as_of`, the latest first."""
    quarter = as_of.year * 4 + (as_of.month - 1) // 3
    starts = (datetime(number // 4, number % 4 * 3 + 1, 1, tzinfo=UTC) for number in range(quarter, quarter - QUARTERS, -1))
    return [int(start.timestamp()) - 1 for start in starts]


@dataclass(frozen=True)
class State:
    """The numbers of the history that one commit leads to, as of the Unix timestamp `as_of`."""

    as_of: int
    commits: int
    contributors: int  # authors of all commits, bots included
    first: int  # committer date as a Unix timestamp, like `last`
    last: int
    within_90_days: int
    within_365_days: int
    authors_last_year: int  # in the last active year, bots included
    absence_factor: int
    people: People


@dataclass
class History:
    """All commits of a history in compact form.

    The age of a commit is the largest n for which the head of the n-th quarter end before now leads to it, or 0 if
    only HEAD does. The head of a quarter end is the commit that `git rev-list -1 --first-parent --before=…` prints.
    """

    authors: NumberedNames = field(default_factory=lambda: NumberedNames("authors"))
    timestamps: "array[int]" = field(default_factory=lambda: array("q"))
    author_numbers: "array[int]" = field(default_factory=lambda: array("l"))
    ages: bytearray = field(default_factory=bytearray)
    heads: int = 0  # the number of quarter ends that have a head
    # Commits without merges that may belong to the last active year. Each ID ends with a line feed.
    recent_timestamps: "array[int]" = field(default_factory=lambda: array("q"))
    recent_ids: bytearray = field(default_factory=bytearray)

    def sort(self) -> None:
        """Order the commits by date."""
        order = sorted(range(len(self.timestamps)), key=self.timestamps.__getitem__)
        self.timestamps = array("q", map(self.timestamps.__getitem__, order))
        self.author_numbers = array("l", map(self.author_numbers.__getitem__, order))
        self.ages = bytearray(map(self.ages.__getitem__, order))

    def state(self, age: int, as_of: int) -> State:
        """Return the numbers of the commits of at least that age, which is at most `heads`, as of the Unix timestamp."""
        is_old_enough = bytes(other >= age for other in range(QUARTERS + 1)).ljust(256, b"\0")
        commits = Commits(self.timestamps, self.author_numbers).select(self.ages.translate(is_old_enough))
        last = commits.timestamps[-1]
        authors = Counter(author for _, author in commits.since(last - YEAR_SECONDS))
        return State(
            as_of=as_of,
            commits=len(commits.timestamps),
            contributors=len(set(commits.authors)),
            first=commits.timestamps[0],
            last=last,
            within_90_days=commits.number_since(as_of - QUARTER_SECONDS),
            within_365_days=commits.number_since(as_of - YEAR_SECONDS),
            authors_last_year=len(authors),
            absence_factor=smallest_majority(list(authors.values())),
            people=people.count(commits, authors, self.bots, as_of),
        )

    @cached_property
    def bots(self) -> frozenset[int]:
        """Return the numbers of the authors that are programs."""
        return frozenset(number for number, author in enumerate(self.authors) if people.is_bot(author))

    def weekly(self, as_of: int) -> list[dict[str, str | int]]:
        """Return the commits of each of the 261 weeks, which begin on Mondays in UTC, that end with the week of `as_of`."""
        last = week_number(as_of)
        commits = Counter(week_number(timestamp) for timestamp in self.timestamps)
        return [{"start": first_day(week), "commits": commits[week]} for week in range(last - WEEKS + 1, last + 1)]

    def median_pause_days(self, as_of: int) -> float | None:
        """Return the median number of days between successive days (UTC) with commits, in the five years before the last one.

        Return None if there are fewer than two such days. Commits after the Unix timestamp `as_of` do not count.
        """
        days = sorted({timestamp // DAY_SECONDS for timestamp in self.timestamps if timestamp <= as_of})
        recent = days[bisect_left(days, days[-1] - PAUSE_YEARS * YEAR_SECONDS // DAY_SECONDS) :] if days else []
        return median(later - earlier for earlier, later in pairwise(recent)) if len(recent) > 1 else None

    def changed_paths(self, repository: GitRepository, last: int, progress: Progress) -> Iterator[bytes]:
        """Yield the paths of each commit of the last active year. A path occurs once for each commit that changed it."""
        since = last - YEAR_SECONDS
        length = len(self.recent_ids) // max(1, len(self.recent_timestamps))
        chosen = [number for number, timestamp in enumerate(self.recent_timestamps) if timestamp >= since]
        if not chosen:
            return  # without IDs, git would start at HEAD
        ids = (bytes(self.recent_ids[number * length : (number + 1) * length]) for number in chosen)
        # git prints an empty record before the header of each commit, and a line break before its first path.
        command = ("log", "--no-walk=unsorted", "--stdin", "--no-renames", "--name-only", "-z", "--format=%x00%H")
        is_header = is_first = False
        done = 0
        for record in repository.records(*command, end=b"\0", input=ids):
            if not record:
                is_header = True
            elif is_header:
                is_header, is_first = False, True
                done += 1
                progress.advance(done, len(chosen))
            else:
                yield record[1:] if is_first else record
                is_first = False


def read(repository: GitRepository, head: str, ends: list[int], progress: Progress) -> History:
    """Read the history of a commit. `ends` are the quarter ends, the latest first. Raises GitError and RepositoryTooLarge."""
    history = History()
    ages: dict[bytes, int] = {}  # of parents that have not been read yet
    first_parent = head.encode()
    last = 0
    # In topological order, a commit comes after all of its children.
    command = ("log", "--topo-order", "--format=%H %ct%x00%P%x00%aN <%aE>", head, "--")
    for done, line in enumerate(repository.records(*command, end=b"\n"), 1):
        progress.advance(done, done + UNKNOWN_COMMITS)
        if done > MAX_COMMITS or len(ages) > MAX_COMMITS:
            raise RepositoryTooLarge(f"This repository has too many commits to be analysed: over {MAX_COMMITS:,}.")
        begin, parent_ids, author = line.split(b"\0", 2)
        commit, _, date = begin.partition(b" ")
        parents = parent_ids.split()
        timestamp = min(parse_timestamp(date), MAX_STORED_TIMESTAMP)
        age = ages.pop(commit, 0)
        if commit == first_parent:
            # git passes over a date that it can't read when it searches for the head of a time.
            while date and history.heads < len(ends) and timestamp <= ends[history.heads]:
                history.heads += 1
            age = history.heads
            first_parent = parents[0] if parents else b""
        for parent in parents:
            if ages.get(parent, -1) < age:
                ages[parent] = age
        history.timestamps.append(timestamp)
        history.author_numbers.append(history.authors.number(author))
        history.ages.append(age)
        last = max(last, timestamp)
        if len(parents) < 2 and timestamp >= last - YEAR_SECONDS:
            history.recent_timestamps.append(timestamp)
            history.recent_ids += commit + b"\n"
    history.sort()
    return history


def find_hotspots(repository: GitRepository, history: History, last: int, progress: Progress) -> list[dict[str, str | int]]:
    """Return the ten files that most commits of the last active year changed. Raises GitError and RepositoryTooLarge."""
    paths = BoundedCounter("changed files")
    for path in history.changed_paths(repository, last, progress):
        paths.add(path)
    most = heapq.nsmallest(MAX_HOTSPOTS, paths.items(), key=lambda item: (-item[1], item[0]))
    return [{"path": decode_name(path), "commits": commits} for path, commits in most]
