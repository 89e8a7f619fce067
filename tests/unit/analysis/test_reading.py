"""Output of git is read in bounded memory, and never blocks."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from app.analysis.counts import BoundedCounter, RepositoryTooLarge
from app.analysis.git import GitError, GitRepository
from harness.repositories import build


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
