"""Counts the people behind the commits: who is there, who joined, who stayed, and how they share the work."""

import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

from app.analysis.dates import QUARTER_SECONDS, WEEK_SECONDS, YEAR_SECONDS

WEEKS, YEARS = 52, 5
MAX_SHARES = 1000

# Accounts of programs, in lower case: names or the part of the e-mail address before the `@`.
BOT_NAMES = frozenset(
    {
        *("dependabot", "dependabot-preview", "renovate", "renovate bot", "mend renovate", "whitesource renovate", "greenkeeper"),
        *("github actions", "github-actions", "github action", "actions-user", "copilot", "cursoragent", "cursor agent", "hubot"),
        *("pre-commit-ci", "pre-commit ci", "allcontributors", "all-contributors", "semantic-release", "imgbot", "imgbotapp"),
        *("weblate", "hosted weblate", "crowdin", "transifex", "translatewiki.net", "l10n daemon script", "the gitter badger"),
        *("mergify", "bors", "homu", "travis ci", "travis-ci", "circleci", "jenkins", "gitlab-ci", "copybara-service", "codecov"),
        *("pyup.io bot", "prombot", "snyk", "fossabot", "scala steward", "rustbot", "rust-timer", "zuul", "dotnet-maestro"),
        *("robot", "codecov-io", "netlify cms", "llvm gn syncbot", "the servo ci"),
    }
)
BOT_ADDRESSES = frozenset(
    {
        *("support@dependabot.com", "bot@renovateapp.com", "support@greenkeeper.io", "actions@github.com", "action@github.com"),
        *(
            "noreply@anthropic.com",
            "codex@openai.com",
            "hosted@weblate.org",
            "badger@gitter.im",
            "builds@travis-ci.org",
            "no-reply@pre-commit.ci",
        ),
    }
)
# Forms of such names. `Jan Bot` is a person.
BOT_NAME = re.compile(
    r".*(?:\[bot\]|\(bot\))|.+[-_](?:ro)?bot|bot|"
    r"(?:.+ )?"
    r"(?:automation|build|ci|cronjob|crowdin|deploy|merge|proposal|prow|readme|release|security|sync|test|tools|transifex|update|version)"
    r" (?:ro)?bot|.+-autoroll(?:er|-builder)?"
)
SERVICE_ACCOUNTS = ".gserviceaccount.com"  # the end of addresses that Google gives to programs
CASE_SENSITIVE_BOT_NAME = re.compile(r"\w*[a-z]Bot|.+ (?:ro)?bot")  # `PrometheusBot`, `tmux update bot`


@dataclass(frozen=True)
class Commits:
    """The committer dates of commits, as Unix timestamps in order, and the numbers of their authors."""

    timestamps: "array[int]"
    authors: "array[int]"

    def select(self, flags: Sequence[object]) -> "Commits":
        """Return the commits whose flags are true."""
        return Commits(array("q", compress(self.timestamps, flags)), array("l", compress(self.authors, flags)))

    def number_since(self, since: int) -> int:
        return len(self.timestamps) - bisect_left(self.timestamps, since)

    def since(self, since: int) -> Iterator[tuple[int, int]]:
        """Yield the timestamp and the author of each commit that is not older."""
        begin = bisect_left(self.timestamps, since)
        return zip(self.timestamps[begin:], self.authors[begin:], strict=True)


@dataclass(frozen=True)
class People:
    """Numbers of people, who are the authors that are no bots, and of their commits.

    The last active year is the 365 days before the last commit; the other times are counted back from the time of the report.
    """

    shares: list[float]  # of the commits of the last active year by person, the largest first; at most 1,000
    half: int  # the fewest people who together made at least half of these commits
    bots: int  # bots with commits in the last active year
    bot_commits: int  # their commits in the last active year
    commits_last_year: int  # commits by people in the last active year
    last_commit: int | None  # the largest committer date, a Unix timestamp
    commits_90d: int
    commits_365d: int
    active_weeks: int  # of the last 52 times seven days, those with commits
    active_years: int  # of the last five times 365 days, those with commits
    active: int  # people with commits in the last 365 days
    newcomers: int  # active people who made their first commit in the last 365 days
    returning: int  # active people who also made commits in the 365 days before
    newcomers_who_stayed: int  # active people who made their first commit between one and five years ago


def is_bot(author: bytes) -> bool:
    """Return whether `Name <e-mail>` is a program rather than a person, by the names that programs use."""
    name, _, address = author.decode(errors="replace").rpartition(" <")
    address = address.removesuffix(">")
    login = address.partition("@")[0].rpartition("+")[2]  # of GitHub's `49699333+dependabot[bot]@users.noreply.github.com`
    is_known = address.casefold() in BOT_ADDRESSES or address.endswith(SERVICE_ACCOUNTS)
    return is_known or _is_name_of_bot(name.strip()) or _is_name_of_bot(login)


def _is_name_of_bot(name: str) -> bool:
    folded = name.casefold()
    return folded in BOT_NAMES or bool(BOT_NAME.fullmatch(folded) or CASE_SENSITIVE_BOT_NAME.fullmatch(name))


def count(commits: Commits, last_year: Counter[int], bots: frozenset[int], as_of: int) -> People:
    """Count the people behind commits. `last_year` has the number of commits of the last active year by author."""
    by_people = commits.select([author not in bots for author in commits.authors]) if bots else commits
    first = dict(zip(reversed(by_people.authors), reversed(by_people.timestamps), strict=True))
    active, year_before, weeks, years = set(), set(), set(), set()
    for timestamp, author in by_people.since(as_of - YEARS * YEAR_SECONDS):
        age = max(0, as_of - timestamp - 1)  # a year includes its first second; dates in the future belong to the current one
        weeks.add(age // WEEK_SECONDS)
        years.add(age // YEAR_SECONDS)
        if age < YEAR_SECONDS:
            active.add(author)
        elif age < 2 * YEAR_SECONDS:
            year_before.add(author)
    shares = sorted((number for author, number in last_year.items() if author not in bots), reverse=True)
    return People(
        shares=[round(number / sum(shares), 6) for number in shares[:MAX_SHARES]],
        half=smallest_majority(shares),
        bots=sum(author in bots for author in last_year),
        bot_commits=sum(number for author, number in last_year.items() if author in bots),
        commits_last_year=sum(shares),
        last_commit=by_people.timestamps[-1] if by_people.timestamps else None,
        commits_90d=by_people.number_since(as_of - QUARTER_SECONDS),
        commits_365d=by_people.number_since(as_of - YEAR_SECONDS),
        active_weeks=sum(week < WEEKS for week in weeks),
        active_years=len(years),
        active=len(active),
        newcomers=sum(first[author] >= as_of - YEAR_SECONDS for author in active),
        returning=len(active & year_before),
        newcomers_who_stayed=sum(as_of - YEARS * YEAR_SECONDS <= first[author] < as_of - YEAR_SECONDS for author in active),
    )


def smallest_majority(numbers: list[int]) -> int:
    """Return how many of the numbers, the largest first, add up to at least half of their sum."""
    half = sum(numbers) / 2
    total = 0
    for count, number in enumerate(sorted(numbers, reverse=True), 1):
        total += number
        if total >= half:
            return count
    return 0
