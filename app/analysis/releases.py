"""Reads the tags: which of them are versions, and how often there are releases. `docs/analysis.md` describes the rules."""

import re
from dataclasses import dataclass
from datetime import date
from itertools import groupby, pairwise
from statistics import median
from typing import Any

from app.analysis.counts import RepositoryTooLarge
from app.analysis.dates import DAY_SECONDS, iso, parse_timestamp
from app.analysis.git import GitRepository, decode_name

MAX_RELEASES = 500_000
MAX_NAME_LENGTH = 100  # a longer tag is not a version; also bounds the time of the regular expressions
RECENT_DAYS = 5 * 366  # at least five years
MAX_RECENT = 100

ALLOWED = re.compile(r"[0-9A-Za-z.+~_-]+")
# The expressions get only what follows the last `/` or `@` of a tag: words that end with `-` or `_`, letters, numbers, a suffix.
_WORDS = r"(?P<words>(?:[A-Za-z][A-Za-z0-9.]*[-_])*?(?:[A-Za-z]+[._-]?)?)"
# `1.2`, `v1.2.3-rc.1`, `release-2024.05`, `jq-1.7`, `go1.21`, `REL_15_2`
SEVERAL_NUMBERS = re.compile(_WORDS + r"(?P<numbers>\d+(?:[._]\d+)+)(?P<suffix>.*)")
# `v4`, `r150`, `jdk-21+35`, `2024a`, `release-74-1`, `2024-01-15`, `RELEASE.2024-01-18T22-51-28Z`
ONE_NUMBER = re.compile(_WORDS + r"(?P<numbers>\d+(?:-\d+)*)(?P<suffix>.*)")
USUAL_SUFFIX = re.compile(
    r"[a-z]?(?:u\d+)?"
    r"(?:[._-]?(?:alpha|beta|rc|pre|preview|m|b|ga|rel|release|released|final|stable|lts|sp|patch|update)(?![a-z])\d*|[._-]\d+)*"
    r"(?:\+.*)?|T\d.*",  # a time of day follows a date
    re.IGNORECASE,
)
MAINTENANCE_BRANCH = re.compile(r".*[._-]x", re.IGNORECASE)  # `2.3.x`
DATE = re.compile(r"(?P<year>(?:19|20)\d\d)[-._](?P<month>\d\d)[-._](?P<day>\d\d)(?!\d)")
YEAR_AND_LETTER = re.compile(r"(?:19|20)\d\d[a-z]")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


RELEASE_WORDS = _set("v ver version r rel release releases jdk")
# Words of tags that mark a place in the history and not a release
MARKER_WORDS = _set(
    "after archive archived backup base basepoint basepoints before branch branchpoint deprecated eol init initial merge merged "
    "old split start"
)
ARCHIVE_FOLDERS = ("archive/", "archived/", "attic/", "backup/", "backups/", "obsolete/", "old/")
# Numbers after these words count something else than releases: `build-7`, `issue-12`, `nightly-2024-01-15`.
COUNTED_WORDS = MARKER_WORDS | _set(
    "autobuild bak continuous rolling save untagged "
    "assignment bug build builds bump chapter checkpoint ci commit cron daily day demo deploy deployed deployment dev draft edge "
    "ex example exercise exp experiment feature fix gh head homework hotfix hw import issue iteration job lab latest lesson main "
    "master milestone nightly part phase point post pr pre preview prod production pull push rev run save snapshot sprint stage "
    "staging step submission svn sync task temp test tests ticket tip tmp todo trunk tutorial unstable week weekly wip"
)
PRE_RELEASE_WORDS = _set(
    "alpha beta canary candidate cr dev devel develop development dp draft ea eap edge experimental insider insiders milestone "
    "next nightly playtest poc pre prerelease pretest preview rc snapshot temp test testing tmp tp trial unstable wip"
)
# Before the number: `nightly-1.2.3`. The other words may also be part of a package's name.
PRE_RELEASE_NAMES = PRE_RELEASE_WORDS - _set("cr dp draft ea edge next poc test testing tp trial")
PRE_RELEASE_LETTER = re.compile(r"[-~._]?[abcm][-.]?\d", re.IGNORECASE)  # `1.0b2`, `5.0-M1`, but not `1.0.2b` or `2024a`


@dataclass(frozen=True)
class Version:
    package: str  # what stands before the number, without `v` and separators: tells the packages of one repository apart
    numbers: tuple[int, ...]
    is_pre_release: bool
    is_certain: bool  # False if the tag may as well be something else, as `sf_16` or `7`

    @property
    def order(self) -> tuple[tuple[int, ...], bool]:
        """The sort key: a pre-release comes before its release."""
        return self.numbers, not self.is_pre_release


@dataclass(frozen=True)
class Release:
    name: str
    at: int | None  # Unix timestamp, the creatordate of git; None if the tag has no date
    version: Version


@dataclass(frozen=True)
class Tags:
    count: int  # of all tags
    releases: list[Release]


def read_tags(repository: GitRepository) -> Tags:
    """Read all tags. Raises GitError, and RepositoryTooLarge if there are too many."""
    count, releases = 0, []
    command = ("for-each-ref", "--format=%(refname:strip=2)%00%(creatordate:unix)", "refs/tags")
    for count, line in enumerate(repository.records(*command, end=b"\n"), 1):
        if count > MAX_RELEASES:
            raise RepositoryTooLarge(f"This repository has too many tags to be analysed: over {MAX_RELEASES:,}.")
        tag, _, timestamp = line.partition(b"\0")
        name = decode_name(tag)
        if version := parse_version(name):
            releases.append(Release(name, parse_timestamp(timestamp) if timestamp else None, version))
    return Tags(count, _without_uncertain(releases))


def _without_uncertain(releases: list[Release]) -> list[Release]:
    """Where some tags are certainly versions, others count only if they name the same package: `sf_16` beside `sf_16.1`."""
    certain = [release.version for release in releases if release.version.is_certain]
    if not certain:
        return releases
    packages = {version.package for version in certain} - {""}
    return [release for release in releases if release.version.is_certain or release.version.package in packages]


def released_until(releases: list[Release], until: int) -> list[Release]:
    """Return the releases that existed at a Unix timestamp."""
    return [release for release in releases if release.at is not None and release.at <= until]


def summarize(releases: list[Release], as_of: int) -> dict[str, Any]:
    """Return the field `releases` of a report. `as_of` is a Unix timestamp: `recent` has the releases of the years before it."""
    regular = [release for release in releases if not release.version.is_pre_release] or releases
    dated = sorted(
        ((release.at, release) for release in regular if release.at is not None),
        key=lambda item: (item[0], item[1].version.order, item[1].name),
    )
    names = [(release.name, at) for at, release in reversed(dated)]
    latest = names[0] if names else (max(regular, key=lambda release: release.version.order).name if regular else None, None)
    timestamps = _separate_timestamps(dated)
    days = [(later - earlier) / DAY_SECONDS for earlier, later in pairwise(timestamps)]
    recent = [(name, at) for name, at in names if at >= as_of - RECENT_DAYS * DAY_SECONDS]
    return {
        "count": len(releases),
        "latest": latest[0],
        "latest_at": None if latest[1] is None else iso(latest[1]),
        "median_days_between": round(median(days), 2) if days else None,
        "recent": [{"name": name, "at": iso(at)} for name, at in recent[:MAX_RECENT]],
    }


def _separate_timestamps(dated: list[tuple[int, Release]]) -> list[int]:
    """Return the sorted timestamps of the releases. Several packages that were released on one day have only the last one."""
    found = []
    for _, of_day in groupby(dated, key=lambda item: item[0] // DAY_SECONDS):
        day = list(of_day)
        packages = {release.version.package for _, release in day}
        found += [at for at, _ in (day if len(packages) == 1 else day[-1:])]
    return found


def parse_version(tag: str) -> Version | None:
    """Return None if the tag is not a version."""
    *folders, name = re.split("[/@]", tag)
    if len(name) > MAX_NAME_LENGTH or not ALLOWED.fullmatch(name):
        return None
    if MAINTENANCE_BRANCH.fullmatch(name) or tag.lower().startswith(ARCHIVE_FOLDERS):
        return None
    found = SEVERAL_NUMBERS.fullmatch(name) or ONE_NUMBER.fullmatch(name)
    if found is None:
        return None
    words, suffix = _words_of(found["words"]), found["suffix"].partition("+")[0]
    is_date = _is_date(found["numbers"])
    if found.re is ONE_NUMBER and words != {"v"} and not USUAL_SUFFIX.fullmatch(found["suffix"]):
        return None
    if found.re is ONE_NUMBER or is_date:
        other_words = (words | _words_of("/".join(folders))) & COUNTED_WORDS
    else:
        other_words = words & MARKER_WORDS
    if other_words or _words_of(suffix) & MARKER_WORDS:
        return None
    is_usual = words <= RELEASE_WORDS and (bool(words) or is_date or bool(YEAR_AND_LETTER.fullmatch(name)))
    return Version(
        package="/".join([*folders, *sorted(words - RELEASE_WORDS)]),
        numbers=tuple(int(number) for number in re.split("[._-]", found["numbers"])),
        is_pre_release=bool(
            words & PRE_RELEASE_NAMES or _words_of(suffix) & PRE_RELEASE_WORDS or PRE_RELEASE_LETTER.match(suffix)
        ),
        is_certain=is_usual or found.re is SEVERAL_NUMBERS,
    )


def _words_of(text: str) -> set[str]:
    return set(re.findall("[a-z]+", text.lower()))


def _is_date(numbers: str) -> bool:
    found = DATE.match(numbers)
    if found is None:
        return False
    try:
        date(int(found["year"]), int(found["month"]), int(found["day"]))
    except ValueError:
        return False
    return True
