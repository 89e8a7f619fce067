"""Running git: without a shell, with nobody's configuration, and with nothing executed that a repository could bring along."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import IO

MAX_COMPLAINT_BYTES = 2000
MAX_NAME_LENGTH = 4096  # Linux' own limit for a path
CHUNK_BYTES = 1 << 16


class GitError(Exception):
    """git ended with an error; `complaint` is what it said last, printable."""

    def __init__(self, complaint: str) -> None:
        super().__init__(complaint)
        self.complaint = complaint


def environment() -> dict[str, str]:
    """All that git gets to know of the machine."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.devnull,
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "false",
        "GIT_OPTIONAL_LOCKS": "0",
    }


class Repository:
    """A bare repository on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def output(self, *arguments: str) -> bytes:
        """Of a command whose output is small. Raises GitError."""
        with self.stream(*arguments) as output:
            return output.read()

    @contextmanager
    def stream(self, *arguments: str, feed: Iterator[bytes] | None = None) -> Iterator[IO[bytes]]:
        """The output of a command as it comes; leaving early ends the command. Raises GitError at the end if it failed.

        `feed` is what the command reads, taken in a thread of its own; an error of `feed` is raised here too.
        """
        command = ["git", "--no-pager", f"--git-dir={self.path}", *arguments]
        with popen(command, environment(), feeding=feed is not None) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            complaint = _Complaint(process.stderr)
            feeder = _Feeder(process.stdin, feed) if process.stdin and feed else None
            left_early = True
            try:
                yield process.stdout
                left_early = bool(process.stdout.read(1))
            finally:
                if left_early:
                    process.kill()
                if feeder:
                    feeder.join()
                complaint.join()
            if feeder and feeder.error:
                raise feeder.error
            if process.wait() != 0 and not left_early:
                raise GitError(printable(complaint.text))

    def records(self, *arguments: str, end: bytes) -> Iterator[bytes]:
        """The output of a command cut at each `end`, which is a byte."""
        with self.stream(*arguments) as output:
            rest = b""
            while chunk := output.read1(CHUNK_BYTES):  # type: ignore[attr-defined]
                *whole, rest = (rest + chunk).split(end)
                yield from whole
            if rest:
                yield rest


class _Complaint(Thread):
    """Reads all that a command says on stderr, which would block the command otherwise, and keeps the end of it."""

    def __init__(self, source: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._source = source
        self.text = b""
        self.start()

    def run(self) -> None:
        while chunk := self._source.read(MAX_COMPLAINT_BYTES):
            self.text = (self.text + chunk)[-MAX_COMPLAINT_BYTES:]


class _Feeder(Thread):
    """Writes to a command while somebody else reads its output."""

    def __init__(self, target: IO[bytes], pieces: Iterator[bytes]) -> None:
        super().__init__(daemon=True)
        self._target = target
        self._pieces = pieces
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            for piece in self._pieces:
                self._target.write(piece)
        except BrokenPipeError:
            pass  # the command has ended, and its exit status says why
        except Exception as error:
            self.error = error
        finally:
            with suppress(BrokenPipeError):
                self._target.close()


def popen(command: Sequence[str], variables: Mapping[str, str], feeding: bool = False) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=dict(variables),
        stdin=subprocess.PIPE if feeding else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def printable(text: bytes) -> str:
    """What a stranger wrote, without anything that a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text.decode(errors="replace")).strip()


def readable(name: bytes) -> str:
    """A path or a tag; bytes that are not UTF-8 are written as escapes, and of a very long one there is the beginning."""
    text = name.decode(errors="backslashreplace")
    return text if len(text) <= MAX_NAME_LENGTH else f"{text[:MAX_NAME_LENGTH]}…"
