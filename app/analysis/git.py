"""Running git: without a shell, with nobody's configuration, and with nothing executed that a repository could bring along."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

MAX_COMPLAINT_BYTES = 2000


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
    def stream(self, *arguments: str) -> Iterator[IO[bytes]]:
        """The output of a command as it comes; leaving early ends the command. Raises GitError at the end if it failed."""
        command = ["git", "--no-pager", f"--git-dir={self.path}", *arguments]
        with popen(command, environment()) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                yield process.stdout
                left_early = bool(process.stdout.read(1))
            except BaseException:
                process.kill()
                raise
            if left_early:
                process.kill()
            elif process.wait() != 0:
                raise GitError(printable(process.stderr.read(MAX_COMPLAINT_BYTES)))


def popen(command: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, env=dict(variables), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def printable(text: bytes) -> str:
    """What a stranger wrote, without anything that a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text.decode(errors="replace")).strip()
