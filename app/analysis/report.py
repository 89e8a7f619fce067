"""The report: every number about a repository, each of them what a git command prints. `docs/analysis.md` says which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from app.analysis import history, scores, tree
from app.analysis.git import GitError, Repository
from app.analysis.history import YEAR, Dates
from app.analysis.languages import MAX_LICENSE_BYTES, license_of
from app.analysis.releases import Release, releases
from app.analysis.text import readable
from app.analysis.tree import Files

Progress = Callable[[float, str], None]  # from 0 to 1, and what is done

# The shares of the whole that the parts take.
DATES, AUTHORS, HOTSPOTS, TREE, LINES = 0.2, 0.25, 0.2, 0.05, 0.3
EVERY = 500  # commits or files between two words on progress


def build(repository: Repository, as_of: datetime, progress: Progress) -> dict[str, Any]:
    """Of the commit that HEAD names; of nothing where it names none. Raises GitError."""
    as_of = as_of.astimezone(UTC).replace(microsecond=0)
    head = _head(repository)
    numbers = {"head": head, "as_of": iso(as_of), **_of_tags(repository)}
    numbers |= _of_head(repository, as_of, progress) if head else _of_nothing()
    judged = {name: asdict(score) for name, score in scores.scores(numbers).items()}
    progress(1, "Scored")
    return numbers | {"scores": judged}


def iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def _head(repository: Repository) -> str | None:
    try:
        return repository.output("rev-parse", "--quiet", "--verify", "HEAD^{commit}").decode().strip()
    except GitError:
        return None


def _of_tags(repository: Repository) -> dict[str, Any]:
    found = releases(repository)
    latest: Release | None = found.latest
    return {
        "tags": found.tags,
        "releases": {
            "count": found.count,
            "latest": latest.name if latest else None,
            "latest_at": iso(latest.at) if latest else None,
            "median_days_between": found.median_days_between,
        },
    }


def _of_nothing() -> dict[str, Any]:
    return {**_numbers(0, 0, Dates(None, None, 0, 0, {}), Counter(), []), **_of_files(Files(), {}, None), "activity": []}


def _of_head(repository: Repository, as_of: datetime, progress: Progress) -> dict[str, Any]:
    commits = history.count_commits(repository)
    stages = _Stages(progress)
    dates = history.dates(repository, as_of, stages.begin("Reading the history", DATES, commits))
    assert dates.last is not None
    since = dates.last - YEAR
    authors = history.authors(repository, since, stages.begin("Reading the authors", AUTHORS, commits))
    contributors = history.count_contributors(repository)
    stages.begin("Looking for hotspots", HOTSPOTS, 1)
    hotspots = history.hotspots(repository, since)
    stages.begin("Looking at the files", TREE, 1)
    files = tree.files(repository)
    lines = tree.languages(repository, files, stages.begin("Counting lines", LINES, files.count))
    return {
        **_numbers(commits, contributors, dates, authors, hotspots),
        **_of_files(files, lines, _license(repository, files.practices["license"])),
        "activity": history.by_month(dates.months, as_of),
    }


def _numbers(
    commits: int, contributors: int, dates: Dates, authors: Counter[bytes], hotspots: list[tuple[bytes, int]]
) -> dict[str, Any]:
    return {
        "commits": commits,
        "contributors": contributors,
        "first_commit_at": iso(dates.first),
        "last_commit_at": iso(dates.last),
        "commits_90d": dates.within_90d,
        "commits_365d": dates.within_365d,
        "authors_365d": len(authors),
        "contributor_absence_factor": history.absence_factor(authors),
        "hotspots": [{"path": readable(path), "commits": count} for path, count in hotspots],
    }


def _of_files(files: Files, lines: dict[str, int], license: str | None) -> dict[str, Any]:
    practices = {name: None if path is None else readable(path) for name, path in files.practices.items()}
    return {"files": files.count, "languages": lines, "practices": practices, "license": license}


def _license(repository: Repository, path: bytes | None) -> str | None:
    if path is None:
        return None
    with repository.stream("cat-file", "blob", b"HEAD:" + path) as output:
        return license_of(output.read(MAX_LICENSE_BYTES))


class _Stages:
    """Parts of the whole, one after the other; each tells how far it is."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = 0.0

    def begin(self, step: str, share: float, total: int) -> Callable[[int], None]:
        start = self._done
        self._done += share
        self._progress(start, step)

        def tick(count: int) -> None:
            if count % EVERY == 0:
                self._progress(start + share * min(1.0, count / max(1, total)), step)

        return tick
