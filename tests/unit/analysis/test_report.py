"""Every number of a report equals the output of git, for many kinds of repositories."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.analysis import clone
from app.analysis.address import parse
from app.analysis.failures import AnalysisError
from app.analysis.git import CHUNK_BYTES, MAX_RECORD_BYTES, GitRepository
from app.analysis.report import build as report_of
from app.analysis.rewind import rewind
from harness.repositories import (
    ADA,
    EXECUTABLE,
    NOW,
    SUBMODULE,
    SYMLINK,
    Commit,
    Tag,
    add_blob,
    ago,
    build,
    git,
    many,
    replace_head,
    set_reference,
)
from harness.scale import count
from harness.servers import ROOT
from tests.unit.analysis import literal

BOB = b"Bob <bob@example.org>"
DEPENDABOT = b"dependabot[bot] <49699333+dependabot[bot]@users.noreply.github.com>"
FIELDS = {
    *("formula_version", "head", "as_of", "is_shallow", "commits", "contributors", "first_commit_at", "last_commit_at"),
    *("commits_90d", "commits_365d", "authors_last_year", "contributor_absence_factor", "author_shares", "bots", "people"),
    *("hotspots", "weekly", "past", "tags", "releases", "files", "languages", "other_files", "licenses", "license"),
    *("practices", "practice_files", "scores", "median_pause_days", "verdict"),
}
PRACTICES = [
    *("readme", "license", "contributing", "code_of_conduct", "security", "changelog"),
    *("tests", "ci", "dependencies", "lock_file", "linter"),
]
SCORES = ["activity", "community", "continuity", "releases", "documentation", "engineering", "overall"]

Make = Callable[[Path], Path]


def one_commit(path: Path) -> Path:
    return build(path, [Commit(ago(1), files={b"README.md": b"# Hello\n"})])


def long(path: Path) -> Path:
    return build(
        path, many(1000, seconds_apart=60_000), [Tag("v1.0", 10), Tag("v1.1", 500, ago(300)), Tag("v2.0-rc1"), Tag("v2.0")]
    )


def merges(path: Path) -> Path:
    """The merge commit itself changes a file, which does not count as a change."""
    return build(
        path,
        [
            Commit(ago(400), files={b"a": b"1\n"}),
            Commit(ago(300), files={b"b": b"1\n"}, author=BOB),
            Commit(ago(200), files={b"c": b"1\n"}, parent=0),
            Commit(ago(100), files={b"d": b"in the merge\n"}, merges=[1]),
        ],
    )


def renames(path: Path) -> Path:
    return build(
        path,
        [Commit(ago(9), files={b"a": b"x\n" * 50}), Commit(ago(8), renames={b"a": b"b/c"}), Commit(ago(7), files={b"b/c": None})],
    )


def unusual_entries(path: Path) -> Path:
    submodule = (SUBMODULE, b"1" * 40)
    return build(
        path,
        [
            Commit(
                ago(5),
                files={b"a.py": b"1\n\n3", b"image.py": b"\0\n\n", b"late.py": b"x" * 8000 + b"\0\n", b"empty.py": b""},
                others={b"sub": submodule, b"link.py": (SYMLINK, b"a.py"), b"run.sh": (EXECUTABLE, b"#!/bin/sh\n")},
            ),
            Commit(ago(4), others={b"sub": (SUBMODULE, b"2" * 40)}),
        ],
    )


def unusual_paths(path: Path) -> Path:
    names = [
        b"a b.py",
        b"tab\there.py",
        b"line\nbreak.py",
        b'quo"te.py',
        b"back\\slash.py",
        b"\nfirst",
        b"\xff\xfe.py",
        "ü.py".encode(),
    ]
    names += [b" ", b"-x", b"COMMIT", b":(top)x", b"\x1b[31mred.py"]
    return build(
        path, [Commit(ago(3), files=dict.fromkeys(names, b"x\n")), *(Commit(ago(2), files={name: b"y\n"}) for name in names[:8])]
    )


def unusual_authors(path: Path) -> Path:
    authors = [
        b"\xe9\xff <latin@example.org>",
        b" <nameless@example.org>",
        b"No Address <>",
        b"A 'quoted' \"one\" <q@x>",
        ADA,
        b"ada <ADA@EXAMPLE.ORG>",
    ]
    return build(path, [Commit(ago(number), author, {b"f%d" % number: b"x\n"}) for number, author in enumerate(authors)])


def mailmap(path: Path) -> Path:
    map = b"Ada Lovelace <ada@example.org> <old@example.org>\nAda Lovelace <ada@example.org>\n"
    authors = [b"ada <old@example.org>", ADA, BOB, BOB, BOB]
    commits = [Commit(ago(20 - number), author, {b"f": b"%d\n" % number}) for number, author in enumerate(authors)]
    return build(path, [*commits, Commit(ago(1), files={b".mailmap": map})])


def mailmap_sha256_detached(path: Path) -> Path:
    """A combination of three kinds. A bare repository reads its mailmap from HEAD."""
    map = b"Ada <ada@example.org> Bob <bob@example.org>\n"
    commits = [Commit(ago(9), BOB, {b"a.py": b"1\n2\n"}), Commit(ago(8), ADA, {b".mailmap": map})]
    build(path, commits, [Tag("v1.0", 0), Tag("v1.1", 1, ago(2))], object_format="sha256")
    return detached(path)


def detached(path: Path) -> Path:
    if not path.exists():
        build(path, [Commit(ago(9), files={b"a": b"1\n"}), Commit(ago(8), BOB, {b"b": b"1\n"})])
    git(path, "update-ref", "--no-deref", "HEAD", git(path, "rev-parse", "HEAD").decode().strip())
    return path


def unordered_dates(path: Path) -> Path:
    """Dates in the future, not in order, and before those of their parents."""
    days = [1, 900, 2, 366.0, 365.0, 364.999, -30, 3, 90, 90.00002, 400]
    return build(path, [Commit(ago(day), files={b"f%d" % (n % 4): b"%d\n" % n}) for n, day in enumerate(days)])


def zones(path: Path) -> Path:
    return build(
        path, [Commit(ago(0) + n, files={b"f": b"%d\n" % n}, zone=zone) for n, zone in enumerate(["+1400", "-1200", "+0530"])]
    )


def ancient(path: Path) -> Path:
    return build(path, [Commit(0, files={b"a": b"1\n"}), Commit(5, files={b"a": b"2\n"})])


def before_1970(path: Path) -> Path:
    """git can't read such a date and uses the timestamp 0."""
    build(path, [Commit(ago(5), files={b"a": b"1\n"}), Commit(ago(4), files={b"b": b"1\n"})])
    replace_head(path, b"> %d +0000" % ago(4), b"> -86400 +0000")
    return path


def after_9999(path: Path) -> Path:
    build(path, [Commit(ago(5), files={b"a": b"1\n"}), Commit(ago(4), files={b"b": b"1\n"})])
    replace_head(path, b"> %d +0000" % ago(4), b"> 300000000000 +0000")
    return path


def tags_of_all_kinds(path: Path) -> Path:
    tags = [Tag("nightly"), Tag("v1.0", 0), Tag("v1.1-rc1", 1), Tag("v1.1", 1), Tag("release-1.2", 1, ago(3)), Tag("2025-10-01")]
    tags += [Tag("v2"), Tag("build-7"), Tag("app-1.0"), Tag("pkg/v3.0.1", 0, ago(60)), Tag("latest", 0, ago(1)), Tag("7")]
    build(path, [Commit(ago(100), files={b"a": b"1\n"}), Commit(ago(50), files={b"b": b"1\n"})], tags)
    blob = add_blob(path, b"only a blob")
    set_reference(path, "refs/tags/v9.0", blob)
    set_reference(path, "refs/tags/v9.1", git(path, "rev-parse", "HEAD^{tree}").decode().strip())
    return path


def people_and_bots(path: Path) -> Path:
    """Seven years in which people join, stay and leave, with bots, branches and releases."""
    choose = random.Random(3)  # noqa: S311
    commits = []
    for number in range(160):
        day = 2500 - number * 15 + choose.uniform(-40, 40)
        author = DEPENDABOT if choose.random() < 0.3 else b"P%d <p%d@example.org>" % ((choose.randint(0, number // 8),) * 2)
        parent = max(0, number - choose.randint(1, 6)) if number else None
        merges = [number - 1] if number > 9 and parent != number - 1 and choose.random() < 0.5 else []
        commits.append(Commit(ago(day), author, {b"f%d" % (number % 9): b"%d\n" % number}, parent=parent, merges=merges))
    tags = [Tag(f"v1.{number}", number * 10, ago(2500 - number * 150)) for number in range(16)]
    return build(path, commits, tags)


def only_bots(path: Path) -> Path:
    return build(path, [Commit(ago(5), DEPENDABOT, {b"a": b"1\n"}), Commit(ago(4), DEPENDABOT, {b"b": b"1\n"})])


def no_files(path: Path) -> Path:
    """All commits of the last year are merges."""
    return build(path, [Commit(ago(800)), Commit(ago(790), parent=0), Commit(ago(3), parent=0, merges=[1])])


KINDS: list[Make] = [
    *(
        one_commit,
        long,
        merges,
        renames,
        unusual_entries,
        unusual_paths,
        unusual_authors,
        mailmap,
        mailmap_sha256_detached,
        detached,
    ),
    *(unordered_dates, zones, ancient, before_1970, after_9999, tags_of_all_kinds, people_and_bots, only_bots, no_files),
]


def report_for(path: Path) -> dict[str, Any]:
    return report_of(GitRepository(path), NOW, lambda fraction, step: None)


@pytest.fixture(scope="module", params=KINDS, ids=lambda make: make.__name__)
def repository(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = request.param(tmp_path_factory.mktemp("repository") / "x.git")
    return path


def test_numbers_equal_the_output_of_git(repository: Path) -> None:
    report = report_for(repository)
    expected = literal.numbers(repository, NOW)
    assert {name: report[name] for name in expected} == expected
    assert json.loads(json.dumps(report).encode()) == report
    assert "\0" not in json.dumps(report, ensure_ascii=False)


def test_scores_follow_from_the_numbers(repository: Path) -> None:
    report = report_for(repository)
    found = {name for name, path in report["practices"].items() if path is not None}
    assert {name: score["score"] for name, score in report["scores"].items()} == literal.scores(report, found)
    for score in report["scores"].values():
        assert 1 <= len(score["evidence"]) <= 4
        assert all(sentence.endswith(".") for sentence in score["evidence"])


def test_fields_of_a_report(tmp_path: Path) -> None:
    report = report_for(one_commit(tmp_path / "x.git"))
    assert set(report) == FIELDS
    assert list(report["practices"]) == PRACTICES
    assert list(report["scores"]) == SCORES
    assert report["as_of"] == "2025-10-03T20:00:00Z"
    assert report["last_commit_at"] == "2025-10-02T20:00:00Z"


def without_commits(path: Path) -> Path:
    return build(path)


def with_a_missing_branch(path: Path) -> Path:
    build(path, [Commit(ago(5), files={b"README.md": b"1\n"})], [Tag("v1.0"), Tag("other")])
    git(path, "symbolic-ref", "HEAD", "refs/heads/missing")
    return path


@pytest.mark.parametrize(("make", "tags"), [(without_commits, 0), (with_a_missing_branch, 2)])
def test_repository_without_commits_has_zeros_and_nulls(make: Make, tags: int, tmp_path: Path) -> None:
    path = make(tmp_path / "x.git")
    report = report_for(path)
    assert set(report) == FIELDS
    assert [report[name] for name in ("commits", "contributors", "commits_90d", "commits_365d", "files")] == [0] * 5
    assert [report[name] for name in ("authors_last_year", "contributor_absence_factor")] == [0] * 2
    assert [report[name] for name in ("head", "first_commit_at", "last_commit_at", "license")] == [None] * 4
    assert (report["languages"], report["hotspots"], report["author_shares"]) == ({}, [], [])
    assert report["bots"] == {"authors": 0, "commits": 0}
    assert set(report["people"].values()) == {0, None}
    assert report["weekly"] == literal.weekly([], NOW)
    assert [set(quarter["scores"].values()) for quarter in report["past"]] == [{None}] * 8
    assert report["practices"] == dict.fromkeys(PRACTICES)
    assert [(name, score["score"]) for name, score in report["scores"].items()] == [(name, None) for name in SCORES]
    assert report["tags"] == tags
    assert {name: report[name] for name in ("tags", "releases")} == literal.of_tags(path, NOW)


def test_lines_exclude_binary_files_and_links(tmp_path: Path) -> None:
    """An unterminated last line counts."""
    report = report_for(unusual_entries(tmp_path / "x.git"))
    assert report["languages"] == {"Python": 4, "Shell": 1}


def test_lines_are_the_sum_of_all_texts_at_head(tmp_path: Path) -> None:
    path = long(tmp_path / "x.git")
    objects = [line.split()[2].decode() for line in literal.lines_of(path, "ls-tree", "-r", "HEAD")]
    assert report_for(path)["languages"] == {
        "Python": sum(len(literal.lines_of(path, "cat-file", "blob", name)) for name in objects)
    }


def test_gitattributes_do_not_change_what_is_binary(tmp_path: Path) -> None:
    files = {b"a.py": b"1\n", b".gitattributes": b"*.py binary\n"}
    assert report_for(build(tmp_path / "x.git", [Commit(ago(1), files=files)]))["languages"] == {"Python": 1}


def test_path_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    report = report_for(unusual_paths(tmp_path / "x.git"))
    paths = [spot["path"] for spot in report["hotspots"]]
    assert r"\xff\xfe.py" in paths
    assert "line\nbreak.py" in paths
    assert "\nfirst" in paths


def test_year_includes_its_boundary(tmp_path: Path) -> None:
    commits = [
        Commit(ago(365) - 1, BOB, {b"out": b"1\n"}),
        Commit(ago(365), BOB, {b"in": b"1\n"}),
        Commit(ago(0), files={b"in": b"2\n"}),
    ]
    report = report_for(build(tmp_path / "x.git", commits))
    assert report["hotspots"] == [{"path": "in", "commits": 2}]
    assert (report["authors_last_year"], report["commits_365d"], report["commits"]) == (2, 2, 3)


def test_weeks_end_with_the_week_of_the_report(tmp_path: Path) -> None:
    commits = [Commit(int((NOW - timedelta(days=days)).timestamp())) for days in (5 * 366, 5 * 364, 64, 1, -40)]
    weeks = report_for(build(tmp_path / "x.git", commits))["weekly"]
    assert (len(weeks), weeks[0]["start"], weeks[-1]) == (261, "2020-10-05", {"start": "2025-09-29", "commits": 1})
    assert sum(week["commits"] for week in weeks) == 3


QUARTER_ENDS = [datetime(2025, month, day, 23, 59, 59, tzinfo=UTC) for month, day in ((3, 31), (6, 30), (9, 30))]
QUARTER_ENDS = [
    datetime(2024, month, day, 23, 59, 59, tzinfo=UTC) for month, day in ((3, 31), (6, 30), (9, 30), (12, 31))
] + QUARTER_ENDS
QUARTER_ENDS = [datetime(2023, 12, 31, 23, 59, 59, tzinfo=UTC), *QUARTER_ENDS]


def test_past_scores_are_those_of_the_commits_of_that_time(repository: Path) -> None:
    assert report_for(repository)["past"] == literal.past(repository, QUARTER_ENDS)


def test_past_scores_are_those_of_an_analysis_at_that_time(tmp_path: Path) -> None:
    path = people_and_bots(tmp_path / "x.git")
    past = report_for(path)["past"]
    for number, end in enumerate(QUARTER_ENDS):
        repository = GitRepository(shutil.copytree(path, tmp_path / f"{number}.git"))
        rewind(repository, end)
        scores = report_of(repository, end, lambda *_: None)["scores"]
        of_history = ("activity", "community", "continuity", "releases")
        assert {name: past[number]["scores"][name] for name in of_history} == {name: scores[name]["score"] for name in of_history}


@pytest.fixture
def reported() -> list[tuple[float, str]]:
    return []


def test_progress_increases_to_1(tmp_path: Path, reported: list[tuple[float, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.analysis.progress.REPORT_INTERVAL_SECONDS", 0)
    report_of(GitRepository(long(tmp_path / "x.git")), NOW, lambda fraction, step: reported.append((fraction, step)))
    fractions = [fraction for fraction, _ in reported]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    steps = list(dict.fromkeys(step for _, step in reported))
    assert steps == [
        "Reading the history",
        "Finding hotspots",
        "Reading the list of files",
        "Counting lines",
    ]
    assert all(sum(name == step for _, name in reported) > 50 for step in steps[:2])


def test_progress_is_throttled(tmp_path: Path, reported: list[tuple[float, str]]) -> None:
    report_of(GitRepository(one_commit(tmp_path / "x.git")), NOW, lambda fraction, step: reported.append((fraction, step)))
    assert len(reported) < 5
    assert reported[-1][0] == 1


MEASURE = """
import json, resource, sys
from datetime import datetime
from pathlib import Path
from app.analysis.failures import AnalysisError
from app.analysis.git import CHUNK_BYTES, MAX_RECORD_BYTES, GitRepository
from app.analysis.report import build
report = build(GitRepository(Path(sys.argv[1])), datetime.fromisoformat(sys.argv[2]), lambda fraction, step: None)
peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({"kilobytes": peak, "commits": report["commits"], "hotspots": report["hotspots"]}))
"""


def measure(path: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", MEASURE, str(path), NOW.isoformat()]
    result: dict[str, Any] = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    return result


def test_memory_does_not_grow_with_the_history(tmp_path: Path) -> None:
    """Ten times the commits take less than twice the memory of this process or of git."""
    few, more = count(2_000, 5_000), count(20_000, 50_000)
    short, full = (measure(build(tmp_path / f"{number}.git", many(number))) for number in (few, more))
    assert (short["commits"], full["commits"]) == (few, more)
    assert full["kilobytes"] < 2 * short["kilobytes"]
    assert full["hotspots"] == literal.hotspots(tmp_path / f"{more}.git", ago(365) - 2000)


def test_very_long_author_name_is_refused_in_linear_time(tmp_path: Path) -> None:
    build(tmp_path, [Commit(ago(1), author=b"x" * 16 * 1024**2 + b" <x@example.org>")])
    begin = time.process_time()
    with pytest.raises(AnalysisError, match=r"a name or path that is longer than 1 MB") as caught:
        report_of(GitRepository(tmp_path), NOW, lambda *_: None)
    assert caught.value.permanent
    assert time.process_time() - begin < 0.5


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, MAX_RECORD_BYTES])
def test_records_of_any_length(size: int, tmp_path: Path) -> None:
    """The boundaries of chunks are never visible in records."""
    build(tmp_path, [Commit(ago(1))])
    repository = GitRepository(tmp_path)
    for text in (b"x" * size + b"\n\ny\n", b"a\n" + b"x" * size + b"\ny"):
        name = add_blob(tmp_path, text)
        assert b"\n".join(repository.records("cat-file", "blob", name, end=b"\n")) == text.removesuffix(b"\n")


def test_shallow_clone_has_no_scores_that_rest_on_history(tmp_path: Path) -> None:
    build(tmp_path / "full", [Commit(ago(10 - day), files={b"README.md": b"%d\n" % day}) for day in range(5)])
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{tmp_path}/full", "shallow")
    full, shallow = (fetched_report(tmp_path, name) for name in ("full", "shallow"))
    assert (full["is_shallow"], full["commits"], shallow["is_shallow"], shallow["commits"]) == (False, 5, True, 1)
    assert [name for name in SCORES if full["scores"][name]["score"] is None] == []
    without = ["activity", "community", "continuity", "releases", "overall"]
    assert [name for name in SCORES if shallow["scores"][name]["score"] is None] == without
    assert [set(quarter["scores"].values()) for quarter in shallow["past"]] == [{None}] * 8
    assert shallow["scores"]["documentation"] == full["scores"]["documentation"]
    assert shallow["scores"]["activity"]["evidence"] == ["The history of the repository is cut off (a shallow clone)."]


@pytest.mark.parametrize("config", ["", "[core]\n\tbare = false\n"])
def test_mailmap_of_head_is_applied_whatever_the_configuration(config: str, tmp_path: Path) -> None:
    path = mailmap(tmp_path / "x.git")
    expected = len(literal.lines_of(path, "shortlog", "-sne", "HEAD"))
    (path / "config").write_text(config)
    assert fetched_report(tmp_path, "x.git")["contributors"] == expected == 2


def fetched_report(folder: Path, name: str) -> dict[str, Any]:
    """Return the report of a clone, as the analysis makes it."""
    (folder / f"clone of {name}").mkdir()
    address = parse(f"{folder}/{name}", [folder])
    return report_of(clone.fetch(address, folder / f"clone of {name}", [], 64 * 1024**2, lambda *_: None), NOW, lambda *_: None)
