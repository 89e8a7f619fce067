"""Running git: without a shell, with nobody's configuration, and with nothing executed that a repository could bring along."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

MAX_COMPLAINT_BYTES = 2000


class GitError(Exception):
    """git ended with an error; `complaint` is what it said, printable."""

    def __init__(self, complaint: str) -> None:
        super().__init__(complaint)
        self.complaint = complaint


def environment() -> dict[str, str]:
    """All that git gets to know of the machine. There is no proxy in it: through one, nobody knows whom git talks to."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.devnull,
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "false",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
    }


class Repository:
    """A bare repository on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def output(self, *arguments: str | bytes) -> bytes:
        """Of a command whose output is small. Raises GitError."""
        with self.stream(*arguments) as output:
            return output.read()

    @contextmanager
    def stream(self, *arguments: str | bytes) -> Iterator[IO[bytes]]:
        """The output of a command as it comes; whoever leaves early ends the command. Raises GitError if it failed."""
        command = ["git", "--no-pager", f"--git-dir={self.path}", *arguments]
        with tempfile.TemporaryFile() as complaints, popen(command, environment(), stderr=complaints) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
                left_early = bool(process.stdout.read(1))
            except BaseException:
                process.kill()
                raise
            if left_early:
                process.kill()
            elif process.wait() != 0:
                complaints.seek(0)
                raise GitError(printable(complaints.read(MAX_COMPLAINT_BYTES)))


def popen(
    command: Sequence[str | bytes], variables: Mapping[str, str], stderr: int | IO[bytes] = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=dict(variables), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr)


def printable(text: bytes) -> str:
    """What a stranger wrote, without anything that a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text.decode(errors="replace")).strip()
