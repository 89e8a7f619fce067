"""Builds the report of a repository. `docs/analysis.md` defines each number by a git command."""

import tempfile
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.analysis import history, people, releases, scores, tree, verdict
from app.analysis.dates import iso
from app.analysis.git import GitRepository, decode_name
from app.analysis.history import History, State
from app.analysis.licenses import Licenses
from app.analysis.lines import LineCounts, count_lines
from app.analysis.people import Commits, People
from app.analysis.practices import Practices, no_practices
from app.analysis.progress import Progress
from app.analysis.releases import Tags

# The steps and their shares of the progress.
HISTORY, HOTSPOTS, FILES, LINES = 0.45, 0.2, 0.05, 0.3

WITHOUT_SCORES: dict[str, int | None] = dict.fromkeys((*scores.SCORE_NAMES, "overall"))


def build(repository: GitRepository, as_of: datetime, progress: Callable[[float, str], None]) -> dict[str, Any]:
    """Return the report of HEAD, or one without commits if HEAD names no commit. Raises GitError and RepositoryTooLarge."""
    as_of = as_of.astimezone(UTC).replace(microsecond=0)
    head = history.find_head(repository)
    tags = releases.read_tags(repository)
    numbers: dict[str, Any] = {
        "formula_version": scores.FORMULA_VERSION,
        "head": head,
        "as_of": iso(int(as_of.timestamp())),
        "is_shallow": history.is_shallow(repository),
        "tags": tags.count,
        "releases": releases.summarize(tags.releases, int(as_of.timestamp())),
    }
    reporter = Progress(progress)
    numbers |= _fields(repository, head, as_of, tags, reporter) if head else _fields_without_commits(as_of)
    if numbers["is_shallow"]:
        numbers["past"] = _past_without_scores(as_of)
    numbers["scores"] = {name: asdict(score) for name, score in scores.scores(numbers).items()}
    numbers["verdict"] = verdict.judge(numbers)
    reporter.finish()
    return numbers


def _fields_without_commits(as_of: datetime) -> dict[str, Any]:
    return {
        "commits": 0,
        "contributors": 0,
        "first_commit_at": None,
        "last_commit_at": None,
        "commits_90d": 0,
        "commits_365d": 0,
        "authors_last_year": 0,
        "contributor_absence_factor": 0,
        **_people_fields(people.count(Commits(array("q"), array("l")), Counter(), frozenset(), int(as_of.timestamp()))),
        "hotspots": [],
        "weekly": History().weekly(int(as_of.timestamp())),
        "median_pause_days": None,
        "past": _past_without_scores(as_of),
        **_file_fields(0, LineCounts(), no_practices(), {"tests": 0, "ci": 0}, Licenses()),
    }


def _fields(repository: GitRepository, head: str, as_of: datetime, tags: Tags, progress: Progress) -> dict[str, Any]:
    return {**_commit_fields(repository, head, as_of, tags, progress), **_tree_fields(repository, head, progress)}


def _commit_fields(repository: GitRepository, head: str, as_of: datetime, tags: Tags, progress: Progress) -> dict[str, Any]:
    now, ends = int(as_of.timestamp()), history.quarter_ends(as_of)
    progress.begin("Reading the history", HISTORY)
    commits = history.read(repository, head, ends, progress)
    state = commits.state(0, now)
    progress.begin("Finding hotspots", HOTSPOTS)
    return {
        **_state_fields(state),
        "hotspots": history.find_hotspots(repository, commits, state.last, progress),
        "weekly": commits.weekly(now),
        "median_pause_days": commits.median_pause_days(now),
        "past": [_past(end, _scores_at(commits, age, end, tags)) for age, end in reversed(list(enumerate(ends, 1)))],
    }


def _state_fields(state: State) -> dict[str, Any]:
    return {
        "commits": state.commits,
        "contributors": state.contributors,
        "first_commit_at": iso(state.first),
        "last_commit_at": iso(state.last),
        "commits_90d": state.within_90_days,
        "commits_365d": state.within_365_days,
        "authors_last_year": state.authors_last_year,
        "contributor_absence_factor": state.absence_factor,
        **_people_fields(state.people),
    }


def _people_fields(people: People) -> dict[str, Any]:
    numbers = asdict(people)
    last = numbers.pop("last_commit")
    return {
        "author_shares": numbers.pop("shares"),
        "bots": {"authors": numbers.pop("bots"), "commits": numbers.pop("bot_commits")},
        "people": {"last_commit_at": None if last is None else iso(last), **numbers},
    }


def _scores_at(commits: History, age: int, end: int, tags: Tags) -> dict[str, int | None]:
    """Return the scores of a quarter end. Those that need the contents of files are null."""
    if age > commits.heads:
        return WITHOUT_SCORES
    then = {
        "as_of": iso(end),
        "tags": tags.count,
        "releases": releases.summarize(releases.released_until(tags.releases, end), end),
        **_state_fields(commits.state(age, end)),
    }
    return WITHOUT_SCORES | {name: score.score for name, score in scores.of_history(then).items()}


def _past_without_scores(as_of: datetime) -> list[dict[str, Any]]:
    return [_past(end, WITHOUT_SCORES) for end in reversed(history.quarter_ends(as_of))]


def _past(end: int, scores: dict[str, int | None]) -> dict[str, Any]:
    return {"at": iso(end), "scores": scores}


def _tree_fields(repository: GitRepository, head: str, progress: Progress) -> dict[str, Any]:
    progress.begin("Reading the list of files", FILES)
    with tempfile.NamedTemporaryFile() as regular, tempfile.TemporaryFile() as contents:
        files = tree.read_files(repository, head, regular)
        regular.flush()
        progress.begin("Counting lines", LINES)
        lines = count_lines(repository, head, Path(regular.name), contents, progress)
    return _file_fields(files.count, lines, *files.indicators.read(repository, head, lines.inline_tests))


def _file_fields(
    files: int, lines: LineCounts, practices: Practices, practice_files: dict[str, int], licenses: Licenses
) -> dict[str, Any]:
    return {
        "files": files,
        "languages": lines.by_size(),
        "other_files": dict(lines.other_files),
        "practices": {name: None if path is None else decode_name(path) for name, path in practices.items()},
        "practice_files": practice_files,
        "licenses": [{"path": path, "spdx_id": spdx_id} for path, spdx_id in licenses.found],
        "license": licenses.expression,
    }
