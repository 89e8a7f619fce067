"""Languages, practices and licences are recognised by names."""

from __future__ import annotations

import time
from itertools import chain
from pathlib import Path

import pytest

from app.analysis import practices
from app.analysis.counts import BoundedCounter, RepositoryTooLarge
from app.analysis.git import GitError, GitRepository
from app.analysis.languages import spdx_id
from app.analysis.report import build as report_of
from harness.repositories import NOW, SYMLINK, Commit, ago, build

MIT = (Path(__file__).parents[3] / "LICENSE").read_bytes()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("readme", "README.rst"),
        ("readme", ".github/readme.md"),
        ("license", "COPYING"),
        ("license", "LICENSE-MIT"),
        ("contributing", "docs/contributing.rst"),
        ("code_of_conduct", "CODE_OF_CONDUCT.md"),
        ("security", ".github/SECURITY.md"),
        ("changelog", "History.md"),
        ("tests", "pkg/deep/thing_test.go"),
        ("ci", ".gitlab-ci.yml"),
        ("dependencies", "backend/Cargo.toml"),
        ("lock_file", "uv.lock"),
        ("linter", "eslint.config.mjs"),
    ],
)
def test_practice_of_a_path(name: str, path: str) -> None:
    found = practices.no_practices()
    practices.record_path(found, path.encode())
    assert {practice for practice, path_found in found.items() if path_found} == {name}


@pytest.mark.parametrize(
    "path", ["src/readme.py", "a/b/c/uv.lock", "contest.py", "latest/a.py", "news/a.py", "release", "x" * 400 + "/test_a.py"]
)
def test_path_without_a_practice(path: str) -> None:
    found = practices.no_practices()
    practices.record_path(found, path.encode())
    assert not any(found.values())


def test_shortest_path_is_preferred_then_the_first() -> None:
    found = practices.no_practices()
    for path in (b"docs/README.md", b"README.txt", b"README.rst", b"readme.html"):
        practices.record_path(found, path)
    assert found["readme"] == b"README.rst"


def test_linter_section_in_another_file(tmp_path: Path) -> None:
    files = {b"pyproject.toml": b"[project]\n\n[tool.ruff]\n", b"setup.cfg": b"[metadata]\n", b"LICENSE": MIT}
    report = report_of(GitRepository(build(tmp_path / "x.git", [Commit(ago(1), files=files)])), NOW, lambda fraction, step: None)
    assert (report["practices"]["linter"], report["license"]) == ("pyproject.toml", "MIT")


def test_licence_that_is_a_symbolic_link_is_found_but_unknown(tmp_path: Path) -> None:
    path = build(tmp_path / "x.git", [Commit(ago(1), others={b"LICENSE": (SYMLINK, b"docs/LICENSE")})])
    report = report_of(GitRepository(path), NOW, lambda fraction, step: None)
    assert (report["practices"]["license"], report["license"]) == ("LICENSE", None)


@pytest.mark.parametrize("text", [b"", b"\n" * 65536, b" " * 65536, b"\xff\0" * 30000, b"a\n" * 32768, MIT + b"x" * 900])
def test_text_that_is_not_a_licence_is_rejected_fast(text: bytes) -> None:
    started = time.process_time()
    assert spdx_id(text) is None
    assert time.process_time() - started < 5


def test_counter_refuses_to_exceed_its_memory() -> None:
    counter = BoundedCounter("changed files", max_bytes=400)
    for name in (b"a", b"b", b"a"):
        counter.add(name)
    assert dict(counter.items()) == {b"a": 2, b"b": 1}
    with pytest.raises(RepositoryTooLarge, match="too many changed files to be analysed: over 2"):
        counter.add(b"c")


def test_long_error_output_does_not_block_the_command(tmp_path: Path) -> None:
    """git prints a line for each broken reference, together much more than a pipe holds."""
    path = build(tmp_path / "x.git")
    for number in range(2000):
        (path / "refs" / "tags" / f"broken-{number}").write_text("0" * 40 + "\n")
    repository = GitRepository(path)
    assert list(repository.records("tag", end=b"\n")) == []
    with pytest.raises(GitError, match="Not a valid object name"):
        repository.output("cat-file", "blob", "nothing")


def test_leaving_the_stream_early_ends_the_command(tmp_path: Path) -> None:
    repository = GitRepository(build(tmp_path / "x.git"))
    endless = chain.from_iterable([b"x\n"] for _ in iter(int, 1))
    with repository.stream("cat-file", "--batch", input=endless) as output:
        assert output.readline() == b"x missing\n"
