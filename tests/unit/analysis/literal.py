"""Computes the numbers of a report from the documented git commands, without code of the application."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.repositories import git

DAY = 86_400

# The tags of these tests that are versions.
VERSION = re.compile(r"(v|release-|app-|pkg/v)?\d+(\.\d+)+(-rc\d+)?|v\d+|2025-10-01")


def numbers(repository: Path, as_of: datetime) -> dict[str, Any]:
    """Return all fields except languages, practices, licence and scores."""
    return {**of_head(repository, as_of), **of_tags(repository, as_of)}


def of_head(repository: Path, as_of: datetime) -> dict[str, Any]:
    timestamps = [int(line or 0) for line in lines_of(repository, "log", "--format=%ct", "HEAD")]
    now, last = as_of.timestamp(), max(timestamps)
    names = lines_of(repository, "log", "--format=%aN <%aE>", "HEAD")
    authors = Counter(name for name, timestamp in zip(names, timestamps, strict=True) if timestamp >= last - 365 * DAY)
    return {
        "head": git(repository, "rev-parse", "HEAD").decode().strip(),
        "is_shallow": (repository / ".git" / "shallow").exists() or (repository / "shallow").exists(),
        "commits": int(git(repository, "rev-list", "--count", "HEAD")),
        "contributors": len(lines_of(repository, "shortlog", "-sne", "HEAD")),
        "first_commit_at": iso(min(timestamps)),
        "last_commit_at": iso(last),
        "commits_90d": sum(timestamp >= now - 90 * DAY for timestamp in timestamps),
        "commits_365d": sum(timestamp >= now - 365 * DAY for timestamp in timestamps),
        "authors_last_year": len(authors),
        "contributor_absence_factor": absence_factor(authors),
        "files": len(lines_of(repository, "ls-tree", "-r", "HEAD")),
        "hotspots": hotspots(repository, last - 365 * DAY),
        "activity": activity(timestamps, as_of),
    }


def of_tags(repository: Path, as_of: datetime) -> dict[str, Any]:
    tags = [line.decode() for line in lines_of(repository, "tag")]
    versions = [tag for tag in tags if VERSION.fullmatch(tag)]
    regular = [tag for tag in versions if "-rc" not in tag] or versions
    dated = sorted((int(date), order(tag), tag) for tag in regular if (date := creation(repository, tag)))
    timestamps = separate_timestamps([(date, tag) for date, _, tag in dated])
    days = [(later - earlier) / DAY for earlier, later in pairwise(timestamps)]
    recent = [{"name": tag, "at": iso(date)} for date, _, tag in reversed(dated) if date >= as_of.timestamp() - 1830 * DAY]
    return {
        "tags": len(tags),
        "releases": {
            "count": len(versions),
            "latest": dated[-1][2] if dated else None,
            "latest_at": iso(dated[-1][0]) if dated else None,
            "median_days_between": round(statistics.median(days), 2) if days else None,
            "recent": recent[:100],
        },
    }


def separate_timestamps(dated: list[tuple[int, str]]) -> list[int]:
    """On a day with releases of several packages, only the last one counts."""
    package = {tag: re.split(r"\d", tag)[0].removesuffix("v").removeprefix("release-") for _, tag in dated}
    days = [[(at, package[tag]) for at, tag in dated if at // DAY == day] for day in sorted({at // DAY for at, _ in dated})]
    return [at for day in days for at, _ in (day if len({name for _, name in day}) == 1 else day[-1:])]


def creation(repository: Path, tag: str) -> str:
    return git(repository, "for-each-ref", "--format=%(creatordate:unix)", f"refs/tags/{tag}").decode().strip()


def order(tag: str) -> tuple[list[int], bool]:
    return [int(number) for number in re.findall(r"\d+", tag.partition("-rc")[0])], "-rc" not in tag


def absence_factor(authors: Counter[bytes]) -> int:
    counts = sorted(authors.values(), reverse=True)
    return next(number for number in range(1, len(counts) + 1) if sum(counts[:number]) * 2 >= sum(counts))


def hotspots(repository: Path, since: int) -> list[dict[str, Any]]:
    """Count the paths of each commit. git quotes unusual paths."""
    paths: Counter[bytes] = Counter()
    is_recent = False
    for line in lines_of(repository, "log", "--no-merges", "--no-renames", "--name-only", "--format=COMMIT %H %ct", "HEAD"):
        if line.startswith(b"COMMIT "):
            is_recent = int(line.split(b" ")[2] or 0) >= since
        elif line and is_recent:
            paths[unquoted(line)] += 1
    most = sorted(paths.items(), key=lambda item: (-item[1], item[0]))[:10]
    return [{"path": path.decode(errors="backslashreplace"), "commits": count} for path, count in most]


def unquoted(line: bytes) -> bytes:
    if not line.startswith(b'"'):
        return line
    special = {b"n": b"\n", b"t": b"\t", b'"': b'"', b"\\": b"\\"}
    return re.sub(
        rb"\\([0-7]{3}|.)", lambda found: special.get(found[1]) or bytes([int(found[1], 8)]), line[1:-1], flags=re.DOTALL
    )


def activity(timestamps: list[int], as_of: datetime) -> list[dict[str, Any]]:
    end = as_of.year * 12 + as_of.month
    months = Counter(
        date.year * 12 + date.month for date in (datetime.fromtimestamp(min(m, 253402300799), UTC) for m in timestamps)
    )
    shown = [month for month in months if end - 60 < month <= end]
    if not shown:
        return []
    between = range(min(shown), max(shown) + 1)
    return [{"month": f"{(month - 1) // 12}-{(month - 1) % 12 + 1:02d}", "commits": months[month]} for month in between]


def lines_of(repository: Path, *arguments: str) -> list[bytes]:
    """Return the lines that a git command prints. git quotes unusual paths."""
    return git(repository, *arguments).split(b"\n")[:-1]


def iso(timestamp: int) -> str:
    return datetime.fromtimestamp(min(timestamp, 253402300799), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def scores(report: dict[str, Any], found: set[str]) -> dict[str, int]:
    """Apply the formulas of docs/analysis.md to the numbers of this module and the names of the found practices."""
    as_of = timestamp_of(report["as_of"])
    commit_days = max(0, int((as_of - timestamp_of(report["last_commit_at"])) // DAY))
    history_days = max(0, int((timestamp_of(report["last_commit_at"]) - timestamp_of(report["first_commit_at"])) // DAY))
    values = {
        "activity": 50 * line(commit_days, 30, 365) + 50 * log(report["commits_365d"], 200),
        "community": 50 * log(report["contributors"] - 1, 99) + 50 * log(report["authors_last_year"] - 1, 19),
        "continuity": 80 * log(report["contributor_absence_factor"] - 1, 7) + 20 * min(1, history_days / 1825),
        "releases": release_points(report["releases"], as_of),
        "documentation": points(found, readme=30, license=25, contributing=15, changelog=15, security=10, code_of_conduct=5),
        "engineering": points(found, tests=30, ci=30, dependencies=15, linter=15, lock_file=10),
    }
    six = {name: int(value + 0.5) for name, value in values.items()}
    return {**six, "overall": int(sum(six.values()) / 6 + 0.5)}


def release_points(releases: dict[str, Any], as_of: float) -> float:
    if releases["latest_at"] is None:
        return 0
    days = max(0, int((as_of - timestamp_of(releases["latest_at"])) // DAY))
    between = releases["median_days_between"]
    return 50 * line(days, 90, 730) + (0 if between is None else 50 * line(between, 60, 365))


def points(found: set[str], **worth: int) -> int:
    return sum(value for name, value in worth.items() if name in found)


def line(value: float, full: float, none: float) -> float:
    return 1 if value <= full else 0 if value >= none else 1 - (value - full) / (none - full)


def log(value: int, full: int) -> float:
    return min(1, math.log(1 + value) / math.log(1 + full))


def timestamp_of(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
