"""Computes the numbers of a report from the documented git commands, without code of the application."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.repositories import git

DAY = 86_400

# The tags of these tests that are versions.
VERSION = re.compile(r"(v|release-|app-|pkg/v)?\d+(\.\d+)+(-rc\d+)?|v\d+|2025-10-01")


def numbers(repository: Path, as_of: datetime) -> dict[str, Any]:
    """Return all fields except languages, practices, licence, scores and past."""
    return {
        "head": git(repository, "rev-parse", "HEAD").decode().strip(),
        "is_shallow": (repository / ".git" / "shallow").exists() or (repository / "shallow").exists(),
        "files": len(lines_of(repository, "ls-tree", "-r", "HEAD")),
        **of_history(repository, "HEAD", as_of),
        **of_tags(repository, as_of),
    }


def of_history(repository: Path, head: str, as_of: datetime) -> dict[str, Any]:
    timestamps = [int(line or 0) for line in lines_of(repository, "log", "--format=%ct", head)]
    now, last = int(as_of.timestamp()), max(timestamps)
    names = lines_of(repository, "log", "--format=%aN <%aE>", head)
    commits = list(zip(timestamps, names, strict=True))
    authors = Counter(name for timestamp, name in commits if timestamp >= last - 365 * DAY)
    shares = sorted((count for name, count in authors.items() if b"[bot]" not in name), reverse=True)
    return {
        "commits": int(git(repository, "rev-list", "--count", head)),
        "contributors": len(lines_of(repository, "shortlog", "-sne", head)),
        "first_commit_at": iso(min(timestamps)),
        "last_commit_at": iso(last),
        "commits_90d": sum(timestamp >= now - 90 * DAY for timestamp in timestamps),
        "commits_365d": sum(timestamp >= now - 365 * DAY for timestamp in timestamps),
        "authors_last_year": len(authors),
        "contributor_absence_factor": absence_factor(authors),
        "author_shares": [round(share / sum(shares), 6) for share in shares],
        "bots": {
            "authors": sum(b"[bot]" in name for name in authors),
            "commits": sum(count for name, count in authors.items() if b"[bot]" in name),
        },
        "people": people([commit for commit in commits if b"[bot]" not in commit[1]], last, now),
        "hotspots": hotspots(repository, last - 365 * DAY, head),
        "weekly": weekly(timestamps, as_of),
        "median_pause_days": median_pause_days([timestamp for timestamp in timestamps if timestamp <= now]),
    }


def people(commits: list[tuple[int, bytes]], last: int, now: int) -> dict[str, Any]:
    """Count people and their commits, without bots."""
    of_year: list[set[bytes]] = [set() for _ in range(5)]
    for timestamp, name in commits:
        for year in range(5):
            if now - (year + 1) * 365 * DAY <= timestamp and (year == 0 or timestamp < now - year * 365 * DAY):
                of_year[year].add(name)
    first: dict[bytes, int] = {}
    for timestamp, name in sorted(commits):
        first.setdefault(name, timestamp)
    authors = Counter(name for timestamp, name in commits if timestamp >= last - 365 * DAY)
    weeks = [(now - (week + 1) * 7 * DAY, now - week * 7 * DAY if week else math.inf) for week in range(52)]
    return {
        "half": absence_factor(authors) if authors else 0,
        "commits_last_year": authors.total(),
        "last_commit_at": iso(max(timestamp for timestamp, _ in commits)) if commits else None,
        "commits_90d": sum(timestamp >= now - 90 * DAY for timestamp, _ in commits),
        "commits_365d": sum(timestamp >= now - 365 * DAY for timestamp, _ in commits),
        "active_weeks": sum(any(begin <= timestamp < end for timestamp, _ in commits) for begin, end in weeks),
        "active_years": sum(bool(names) for names in of_year),
        "active": len(of_year[0]),
        "newcomers": sum(first[name] >= now - 365 * DAY for name in of_year[0]),
        "returning": len(of_year[0] & of_year[1]),
        "newcomers_who_stayed": sum(now - 5 * 365 * DAY <= first[name] < now - 365 * DAY for name in of_year[0]),
    }


def past(repository: Path, ends: list[datetime]) -> list[dict[str, Any]]:
    """Return the scores of the history at each of the given times."""
    found = []
    for end in ends:
        at = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        head = git(repository, "rev-list", "-1", "--first-parent", f"--before={at}", "HEAD").decode().strip()
        without: dict[str, int | None] = dict.fromkeys(
            ("activity", "community", "continuity", "releases", "documentation", "engineering", "overall")
        )
        if head:
            without |= history_scores(
                of_history(repository, head, end) | of_tags(repository, end, end.timestamp()) | {"as_of": at}
            )
        found.append({"at": at, "scores": without})
    return found


def of_tags(repository: Path, as_of: datetime, until: float = math.inf) -> dict[str, Any]:
    tags = [line.decode() for line in lines_of(repository, "tag")]
    versions = [tag for tag in tags if VERSION.fullmatch(tag) and is_until(creation(repository, tag), until)]
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


def is_until(date: str, until: float) -> bool:
    return int(date) <= until if date else until == math.inf


def creation(repository: Path, tag: str) -> str:
    return git(repository, "for-each-ref", "--format=%(creatordate:unix)", f"refs/tags/{tag}").decode().strip()


def order(tag: str) -> tuple[list[int], bool]:
    return [int(number) for number in re.findall(r"\d+", tag.partition("-rc")[0])], "-rc" not in tag


def absence_factor(authors: Counter[bytes]) -> int:
    counts = sorted(authors.values(), reverse=True)
    return next(number for number in range(1, len(counts) + 1) if sum(counts[:number]) * 2 >= sum(counts))


def hotspots(repository: Path, since: int, head: str = "HEAD") -> list[dict[str, Any]]:
    """Count the paths of each commit. git quotes unusual paths."""
    paths: Counter[bytes] = Counter()
    is_recent = False
    for line in lines_of(repository, "log", "--no-merges", "--no-renames", "--name-only", "--format=COMMIT %H %ct", head):
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


def median_pause_days(timestamps: list[int]) -> float | None:
    dates = {datetime.fromtimestamp(timestamp, UTC).date() for timestamp in timestamps}
    recent = sorted(date for date in dates if (max(dates) - date).days <= 5 * 365)
    pauses = [(later - earlier).days for earlier, later in pairwise(recent)]
    return statistics.median(pauses) if pauses else None


def weekly(timestamps: list[int], as_of: datetime) -> list[dict[str, Any]]:
    monday = as_of.date() - timedelta(days=as_of.weekday())
    weeks = [monday - timedelta(weeks=week) for week in range(260, -1, -1)]
    days = Counter(datetime.fromtimestamp(min(timestamp, 253402300799), UTC).date() for timestamp in timestamps)
    return [{"start": week.isoformat(), "commits": sum(days[week + timedelta(days=day)] for day in range(7))} for week in weeks]


def lines_of(repository: Path, *arguments: str) -> list[bytes]:
    """Return the lines that a git command prints. git quotes unusual paths."""
    return git(repository, *arguments).split(b"\n")[:-1]


def iso(timestamp: int) -> str:
    return datetime.fromtimestamp(min(timestamp, 253402300799), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def scores(report: dict[str, Any], found: set[str]) -> dict[str, int]:
    """Apply the formulas of docs/analysis.md to the numbers of this module and the names of the found practices."""
    six = history_scores(report) | {
        "documentation": half_up(
            points(found, readme=10, license=15, contributing=15, changelog=15, security=15, code_of_conduct=10)
            + 20 * log(report["other_files"]["documentation"] + report["other_files"]["prose"], 1000)
        ),
        "engineering": half_up(
            points(found, tests=10, ci=10, dependencies=5, linter=20, lock_file=15)
            + 20 * log(report["practice_files"]["tests"], 300)
            + 20 * log(report["practice_files"]["ci"], 8)
        ),
    }
    return {**six, "overall": half_up(sum(six.values()) / 6)}


def history_scores(report: dict[str, Any]) -> dict[str, int]:
    as_of, people = timestamp_of(report["as_of"]), report["people"]
    days = max(0, int((as_of - timestamp_of(people["last_commit_at"] or "1970-01-01T00:00:00Z")) // DAY))
    share = report["author_shares"][0] if report["author_shares"] else 1
    values = {
        "activity": 40 * line(days, 30, 365) + 30 * log(people["commits_365d"], 1000) + 30 * people["active_weeks"] / 52,
        "community": 50 * log(people["newcomers"], 100) + 50 * log(people["returning"] - 1, 49),
        "continuity": (40 * line(share, 0.2, 0.7) + 30 * log(people["half"] - 1, 7)) * line(days, 365, 730)
        + 20 * log(people["newcomers_who_stayed"], 20)
        + 10 * people["active_years"] / 5,
        "releases": release_points(report["releases"], as_of),
    }
    return {name: half_up(value) for name, value in values.items()}


def half_up(value: float) -> int:
    return int(round(value, 6) + 0.5)


def release_points(releases: dict[str, Any], as_of: float) -> float:
    if releases["latest_at"] is None:
        return 0
    days = max(0, int((as_of - timestamp_of(releases["latest_at"])) // DAY))
    recent = sum((as_of - timestamp_of(release["at"])) // DAY < 730 for release in releases["recent"])
    return 50 * line(days, 90, 730) + 50 * log(recent, 12)


def points(found: set[str], **worth: int) -> int:
    return sum(value for name, value in worth.items() if name in found)


def line(value: float, full: float, none: float) -> float:
    return 1 if value <= full else 0 if value >= none else 1 - (value - full) / (none - full)


def log(value: int, full: int) -> float:
    return min(1, math.log(1 + max(0, value)) / math.log(1 + full))


def timestamp_of(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
