"""Reads the tags: which of them are versions, and how often there are releases."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from app.analysis.counts import RepositoryTooLarge
from app.analysis.git import GitRepository, decode_name
from app.analysis.history import DAY_SECONDS, iso, parse_timestamp

MAX_RELEASES = 500_000
MAX_NAME_LENGTH = 100  # a longer tag is not a version; also bounds the time of the regular expression

# Words that end with `-` or `_`, letters, numbers, any suffix: `1.2`, `v1.2.3-rc.1`, `release-2024.05`, `jq-1.7`, `go1.21`,
# `REL_15_2`. A single number must follow a `v`. The expression gets only the part after the last `/` or `@`.
VERSION = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9.]*[-_])*?"
    r"(?:(?:[A-Za-z]+[._-]?)?(?P<numbers>\d+(?:[._]\d+)+)|[vV](?P<single>\d+)(?![0-9._]))"
    r"(?P<suffix>.*)"
)
ALLOWED = re.compile(r"[0-9A-Za-z.+~_-]+")
PRE_RELEASE = re.compile(r"[-~._]?(a|b|c|rc|alpha|beta|pre|preview|dev|m|milestone|snapshot|nightly|canary|next)(?![a-z])", re.I)

VersionOrder = tuple[tuple[int, ...], bool, str]


@dataclass(frozen=True)
class Release:
    name: str
    at: int | None  # Unix timestamp, the creatordate of git; None if the tag has no date
    order: VersionOrder  # a pre-release comes before its release


def version_order(tag: str) -> VersionOrder | None:
    """Return the sort key of a version, or None if the tag is not a version."""
    name = re.split("[/@]", tag)[-1]
    found = VERSION.fullmatch(name) if len(name) <= MAX_NAME_LENGTH and ALLOWED.fullmatch(name) else None
    if found is None:
        return None
    numbers = tuple(int(number) for number in re.split("[._]", found["numbers"] or found["single"]))
    return numbers, not PRE_RELEASE.match(found["suffix"]), tag


def count_tags(repository: GitRepository) -> int:
    return sum(1 for _ in repository.records("tag", end=b"\n"))


def summarize_releases(repository: GitRepository) -> dict[str, Any]:
    releases = list(read_releases(repository))
    latest = max(releases, key=lambda release: (-1 if release.at is None else release.at, release.order), default=None)
    timestamps = sorted(release.at for release in releases if release.at is not None)
    days = [(later - earlier) / DAY_SECONDS for earlier, later in pairwise(timestamps)]
    return {
        "count": len(releases),
        "latest": latest.name if latest else None,
        "latest_at": iso(latest.at) if latest and latest.at is not None else None,
        "median_days_between": round(median(days), 2) if days else None,
    }


def read_releases(repository: GitRepository) -> Iterator[Release]:
    command = ("for-each-ref", "--format=%(refname:strip=2)%00%(creatordate:unix)", "refs/tags")
    for found, line in enumerate(repository.records(*command, end=b"\n")):
        if found >= MAX_RELEASES:
            raise RepositoryTooLarge(f"This repository has too many tags to be analysed: over {MAX_RELEASES:,}.")
        tag, _, date = line.partition(b"\0")
        name = decode_name(tag)
        if order := version_order(name):
            yield Release(name, parse_timestamp(date) if date else None, order)
