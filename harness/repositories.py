"""Repositories for tests, made with `git fast-import`, which is fast and accepts any file name."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

DAY = 86_400
NOW = datetime(2025, 10, 3, 20, 0, 0, tzinfo=UTC)

FILE, EXECUTABLE, SYMLINK, SUBMODULE = "100644", "100755", "120000", "160000"
ADA = b"Ada <ada@example.org>"

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": os.devnull,
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
}


def ago(days: float) -> int:
    """Return the Unix time of the given number of days before NOW."""
    return int(NOW.timestamp() - days * DAY)


@dataclass
class Commit:
    """A commit. `files`: contents by path, None to remove; `others`: mode and content by path (a submodule: its commit)."""

    at: int
    author: bytes = ADA
    files: Mapping[bytes, bytes | None] = field(default_factory=dict)
    others: Mapping[bytes, tuple[str, bytes]] = field(default_factory=dict)
    merges: Sequence[int] = ()  # further parents, by number of the commit, from 0
    parent: int | None = None  # by number; the commit before, if it is left out
    renames: Mapping[bytes, bytes] = field(default_factory=dict)
    zone: str = "+0000"
    message: bytes = b"a change"


@dataclass(frozen=True)
class Tag:
    """A tag on a commit, given by its number from 0. It is annotated if it has a time."""

    name: str
    commit: int = -1
    at: int | None = None


def build(
    path: Path,
    commits: Iterable[Commit] = (),
    tags: Iterable[Tag] = (),
    *,
    branch: str = "main",
    object_format: str = "sha1",
) -> Path:
    """Create a bare repository whose HEAD names the branch."""
    git(path.parent, "init", "--quiet", "--bare", f"--initial-branch={branch}", f"--object-format={object_format}", str(path))
    command = ["git", "fast-import", "--quiet", "--date-format=raw-permissive"]
    with subprocess.Popen(command, cwd=path, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.writelines(_stream(commits, list(tags), branch))
        process.stdin.close()
    assert process.returncode == 0
    return path


def many(number: int, *, authors: int = 100, paths: int = 500, seconds_apart: int = 2000) -> Iterator[Commit]:
    """Yield a long history up to NOW. Each commit changes one file in a small folder."""
    for count in range(number):
        author = b"Person %d <p%d@example.org>" % (count % authors, count % authors)
        yield Commit(
            int(NOW.timestamp()) - (number - count) * seconds_apart,
            author,
            {b"part%d/part%d/module%d.py" % (count % 20, count * 7 % paths % 23, count * 7 % paths): b"value = %d\n" % count},
        )


def git(folder: Path, *arguments: str | bytes) -> bytes:
    """Run git in a folder and return its output."""
    return subprocess.run(["git", *arguments], cwd=folder, env=ENVIRONMENT, check=True, capture_output=True).stdout


def set_reference(repository: Path, name: str, target: str) -> None:
    git(repository, "update-ref", "--no-deref", name, target)


def add_blob(repository: Path, content: bytes) -> str:
    command = ["git", "hash-object", "-w", "--stdin"]
    return (
        subprocess.run(command, cwd=repository, env=ENVIRONMENT, check=True, input=content, capture_output=True)
        .stdout.decode()
        .strip()
    )


def replace_head(repository: Path, old: bytes, new: bytes) -> None:
    """Replace text in the latest commit object, even if git considers the result malformed."""
    text = git(repository, "cat-file", "commit", "HEAD")
    assert old in text
    command = ["git", "hash-object", "-w", "-t", "commit", "--literally", "--stdin"]
    made = subprocess.run(command, cwd=repository, env=ENVIRONMENT, check=True, input=text.replace(old, new), capture_output=True)
    git(repository, "update-ref", "HEAD", made.stdout.decode().strip())


def _stream(commits: Iterable[Commit], tags: list[Tag], branch: str) -> Iterator[bytes]:
    number = 0
    for number, commit in enumerate(commits, 1):
        yield from _commit(commit, number, branch)
    for tag in tags:
        target = b":%d" % (tag.commit + 1 if tag.commit >= 0 else number)
        if tag.at is None:
            yield b"reset refs/tags/%b\nfrom %b\n\n" % (tag.name.encode(), target)
        else:
            about = (tag.name.encode(), target, ADA, tag.at)
            yield b"tag %b\nfrom %b\ntagger %b %d +0000\ndata 1\nx\n" % about
    yield b"done\n"


def _commit(commit: Commit, number: int, branch: str) -> Iterator[bytes]:
    yield b"commit refs/heads/%b\nmark :%d\n" % (branch.encode(), number)
    for role in (b"author", b"committer"):
        yield b"%b %b %d %b\n" % (role, commit.author, commit.at, commit.zone.encode())
    yield b"data %d\n%b\n" % (len(commit.message), commit.message)
    parent = number - 1 if commit.parent is None else commit.parent + 1
    if parent:
        yield b"from :%d\n" % parent
    for other in commit.merges:
        yield b"merge :%d\n" % (other + 1)
    for old, new in commit.renames.items():
        yield b"R %b %b\n" % (quoted(old), quoted(new))
    for path, content in commit.files.items():
        yield b"D %b\n" % quoted(path) if content is None else _inline(FILE, path, content)
    for path, (mode, content) in commit.others.items():
        yield b"M %b %b %b\n" % (mode.encode(), content, quoted(path)) if mode == SUBMODULE else _inline(mode, path, content)


def _inline(mode: str, path: bytes, content: bytes) -> bytes:
    return b"M %b inline %b\ndata %d\n%b\n" % (mode.encode(), quoted(path), len(content), content)


def quoted(path: bytes) -> bytes:
    return b'"' + path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n") + b'"'
