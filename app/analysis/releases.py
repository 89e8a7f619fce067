"""Tags, and which of them are releases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median

from app.analysis.git import Repository
from app.analysis.history import LAST_SECOND
from app.analysis.text import readable

# `1.2`, `v1.2.3-rc.1`, `release-2024.05`, `name-1.0`, `jq-1.7`, `foo/v2.0.1`; a lone number only with a `v` before it.
_VERSION = re.compile(
    r"(?:.*[/_@-])?(?:v|r|rel|release|version)?[._-]?(?P<numbers>\d+(?:[._]\d+)+)(?P<rest>[.+_-]?[0-9A-Za-z.+~_-]*)"
    r"|(?:.*[/_@-])?v(?P<single>\d+)",
    re.IGNORECASE,
)
MAX_NAME = 200
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Release:
    name: str
    numbers: tuple[int, ...]
    at: datetime


@dataclass(frozen=True)
class Releases:
    tags: int
    count: int
    latest: Release | None
    median_days_between: float | None


def releases(repository: Repository) -> Releases:
    """Of all tags. A tag's date is that of the tag itself, or of the commit if it is a lightweight one."""
    tags, found = 0, []
    with repository.stream("for-each-ref", "--format=%(refname:strip=2)%00%(creatordate:unix)", "refs/tags") as output:
        for line in output:
            tags += 1
            name, _, moment = line.rstrip(b"\n").partition(b"\0")
            if release := _release(readable(name), moment):
                found.append(release)
    found.sort(key=lambda release: (release.at, release.numbers, release.name))
    days = [(after.at - before.at).total_seconds() / DAY_SECONDS for before, after in pairwise(found)]
    return Releases(tags, len(found), found[-1] if found else None, round(median(days), 1) if days else None)


def _release(name: str, moment: bytes) -> Release | None:
    match = _VERSION.fullmatch(name) if len(name) <= MAX_NAME else None
    if match is None or not moment.isdigit() or int(moment) > LAST_SECOND:
        return None
    numbers = tuple(int(number) for number in re.findall(r"\d+", match["numbers"] or match["single"]))
    return Release(name, numbers, datetime.fromtimestamp(int(moment), UTC))
