"""The report: every number about a repository, each of them what a git command prints. `docs/analysis.md` says which."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from app.analysis import history, releases, scores, tree
from app.analysis.git import Repository, readable
from app.analysis.history import iso
from app.analysis.progress import Progress
from app.analysis.tree import Files

# The steps with their shares of the whole.
DATES, AUTHORS, HOTSPOTS, FILES, LINES = 0.2, 0.25, 0.2, 0.05, 0.3


def build(repository: Repository, as_of: datetime, progress: Callable[[float, str], None]) -> dict[str, Any]:
    """Of the commit that HEAD names; of nothing where it names none. Raises GitError, and TooLarge."""
    as_of = as_of.astimezone(UTC).replace(microsecond=0)
    head = history.head_of(repository)
    numbers = {
        "head": head,
        "as_of": iso(int(as_of.timestamp())),
        "tags": releases.tags_of(repository),
        "releases": releases.releases_of(repository),
    }
    so_far = Progress(progress)
    numbers |= _with_commits(repository, head, as_of, so_far) if head else _without_commits()
    judged = {name: asdict(score) for name, score in scores.scores(numbers).items()}
    so_far.finish()
    return numbers | {"scores": judged}


def _without_commits() -> dict[str, Any]:
    return {
        "commits": 0,
        "contributors": 0,
        "first_commit_at": None,
        "last_commit_at": None,
        "commits_90d": 0,
        "commits_365d": 0,
        "authors_last_year": 0,
        "contributor_absence_factor": 0,
        "hotspots": [],
        "activity": [],
        **_of_files(Files(), {}, None),
    }


def _with_commits(repository: Repository, head: str, as_of: datetime, progress: Progress) -> dict[str, Any]:
    return {**_of_commits(repository, head, as_of, progress), **_of_tree(repository, head, progress)}


def _of_commits(repository: Repository, head: str, as_of: datetime, progress: Progress) -> dict[str, Any]:
    commits = history.commits_of(repository, head)
    progress.begin("Reading the history", DATES)
    dates = history.dates_of(repository, head, as_of, commits, progress)
    progress.begin("Reading the authors", AUTHORS)
    authors = history.authors_of(repository, head, dates.last, commits, progress)
    contributors = history.contributors_of(repository, head)
    progress.begin("Looking for hotspots", HOTSPOTS)
    return {
        "commits": commits,
        "contributors": contributors,
        "first_commit_at": iso(dates.first),
        "last_commit_at": iso(dates.last),
        "commits_90d": dates.within_90_days,
        "commits_365d": dates.within_365_days,
        "authors_last_year": authors.count,
        "contributor_absence_factor": authors.absence_factor,
        "hotspots": history.hotspots_of(repository, head, dates.last, authors.without_merges, progress),
        "activity": history.activity(dates.months),
    }


def _of_tree(repository: Repository, head: str, progress: Progress) -> dict[str, Any]:
    progress.begin("Looking at the files", FILES)
    with tempfile.TemporaryFile() as texts:
        files = tree.files_of(repository, head, texts)
        progress.begin("Counting lines", LINES)
        lines = tree.lines_of(repository, texts, files.counted, progress)
    return _of_files(files, lines, tree.license_of(repository, files))


def _of_files(files: Files, lines: dict[str, int], license: str | None) -> dict[str, Any]:
    practices = {name: None if path is None else readable(path) for name, path in files.practices.items()}
    return {"files": files.count, "languages": lines, "practices": practices, "license": license}
