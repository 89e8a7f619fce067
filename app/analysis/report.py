"""Builds the report of a repository. `docs/analysis.md` defines each number by a git command."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from app.analysis import history, releases, scores, tree
from app.analysis.git import GitRepository, decode_name
from app.analysis.history import iso
from app.analysis.progress import Progress
from app.analysis.tree import TreeFiles

# The steps and their shares of the progress.
DATES, AUTHORS, HOTSPOTS, FILES, LINES = 0.2, 0.25, 0.2, 0.05, 0.3


def build(repository: GitRepository, as_of: datetime, progress: Callable[[float, str], None]) -> dict[str, Any]:
    """Return the report of HEAD, or one without commits if HEAD names no commit. Raises GitError and RepositoryTooLarge."""
    as_of = as_of.astimezone(UTC).replace(microsecond=0)
    head = history.find_head(repository)
    tags = releases.read_tags(repository)
    numbers = {
        "head": head,
        "as_of": iso(int(as_of.timestamp())),
        "is_shallow": history.is_shallow(repository),
        "tags": tags.count,
        "releases": releases.summarize(tags.releases, int(as_of.timestamp())),
    }
    reporter = Progress(progress)
    numbers |= _fields(repository, head, as_of, reporter) if head else _fields_without_commits()
    results = {name: asdict(score) for name, score in scores.scores(numbers).items()}
    reporter.finish()
    return numbers | {"scores": results}


def _fields_without_commits() -> dict[str, Any]:
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
        **_file_fields(TreeFiles(), {}, None),
    }


def _fields(repository: GitRepository, head: str, as_of: datetime, progress: Progress) -> dict[str, Any]:
    return {**_commit_fields(repository, head, as_of, progress), **_tree_fields(repository, head, progress)}


def _commit_fields(repository: GitRepository, head: str, as_of: datetime, progress: Progress) -> dict[str, Any]:
    commits = history.count_commits(repository, head)
    progress.begin("Reading the history", DATES)
    dates = history.read_dates(repository, head, as_of, commits, progress)
    progress.begin("Reading the authors", AUTHORS)
    authors = history.read_authors(repository, head, dates.last, commits, progress)
    contributors = history.count_contributors(repository, head)
    progress.begin("Finding hotspots", HOTSPOTS)
    return {
        "commits": commits,
        "contributors": contributors,
        "first_commit_at": iso(dates.first),
        "last_commit_at": iso(dates.last),
        "commits_90d": dates.within_90_days,
        "commits_365d": dates.within_365_days,
        "authors_last_year": authors.count,
        "contributor_absence_factor": authors.absence_factor,
        "hotspots": history.find_hotspots(repository, head, dates.last, authors.commits_without_merges, progress),
        "activity": history.activity(dates.months),
    }


def _tree_fields(repository: GitRepository, head: str, progress: Progress) -> dict[str, Any]:
    progress.begin("Reading the list of files", FILES)
    with tempfile.TemporaryFile() as texts:
        files = tree.read_files(repository, head, texts)
        progress.begin("Counting lines", LINES)
        lines = tree.count_lines_by_language(repository, texts, files.countable, progress)
    return _file_fields(files, lines, tree.find_license(repository, files))


def _file_fields(files: TreeFiles, lines: dict[str, int], license: str | None) -> dict[str, Any]:
    practices = {name: None if path is None else decode_name(path) for name, path in files.practices.items()}
    return {"files": files.count, "languages": lines, "practices": practices, "license": license}
