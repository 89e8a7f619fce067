"""Runs git without a shell, without the configuration of any user, and without executing anything from the repository."""

import os
import resource
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import IO

from app.analysis.failures import AnalysisError

MAX_STDERR_BYTES = 2000
MAX_REASON_LENGTH = 300
MAX_RECORD_BYTES = 1024**2
MAX_NAME_LENGTH = 4096  # PATH_MAX of Linux
CHUNK_BYTES = 1 << 16

# Packs may be larger than the memory limit of a process, and files larger than 8 MB are not held in memory.
_MEMORY_SETTINGS = ("core.packedGitWindowSize=32m", "core.packedGitLimit=256m", "core.bigFileThreshold=8m")
_MEMORY_OPTIONS = [option for setting in _MEMORY_SETTINGS for option in ("-c", setting)]


class GitError(Exception):
    """git exited with an error. `stderr` is the end of its error output, printable."""

    def __init__(self, stderr: str) -> None:
        super().__init__(stderr)
        self.stderr = stderr


class CpuTimeExceeded(GitError):
    """git took more processor time than it may."""


def environment() -> dict[str, str]:
    """Return the complete environment of git processes."""
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
        "GIT_NO_LAZY_FETCH": "1",
    }


def run(*arguments: str) -> bytes:
    """Return the output of a git command outside of any repository. Raises GitError."""
    done = subprocess.run(["git", *arguments], env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        raise GitError(printable(done.stderr))
    return done.stdout


def reason(stderr: str) -> str:
    """Return the first error in the error output of git, in one line.

    The remote side wrote its own errors before it failed, but they may arrive after those that report this failure.
    """
    lines = sorted(stderr.splitlines(), key=lambda line: not line.startswith("remote: "))
    lines = [line.removeprefix("remote: ").strip() for line in lines]
    errors = [line for line in lines if line.startswith(("fatal: ", "error: "))]
    return (errors or lines or [""])[0][:MAX_REASON_LENGTH]


class GitRepository:
    """A bare repository on disk. `variables` are additional environment variables for git.

    A command that takes more than `max_cpu_seconds` of processor time fails with CpuTimeExceeded.
    """

    def __init__(self, path: Path, variables: Mapping[str, str] | None = None, max_cpu_seconds: int | None = None) -> None:
        self.path = path
        self._variables = variables or {}
        self._max_cpu_seconds = max_cpu_seconds

    def output(self, *arguments: str) -> bytes:
        """Return the whole output of a git command. Raises GitError."""
        with self.stream(*arguments) as output:
            return output.read()

    @contextmanager
    def stream(self, *arguments: str, input: Iterator[bytes] | None = None) -> Iterator[IO[bytes]]:
        """Yield the output of a git command as a stream. Leaving the block early kills the command.

        `input` is written to the command by another thread. Raises GitError at the end if the command failed, and any exception
        of the `input` iterator.
        """
        command = ["git", "--no-pager", *_MEMORY_OPTIONS, f"--git-dir={self.path}", *arguments]
        stdin = subprocess.PIPE if input else subprocess.DEVNULL
        with popen(command, {**environment(), **self._variables}, stdin) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            if self._max_cpu_seconds is not None:
                resource.prlimit(process.pid, resource.RLIMIT_CPU, (self._max_cpu_seconds, self._max_cpu_seconds + 1))
            stderr = _StderrReader(process.stderr)
            writer = _StdinWriter(process.stdin, input) if process.stdin and input else None
            left_early = True
            try:
                yield process.stdout
                left_early = bool(process.stdout.read(1))
            finally:
                if left_early:
                    process.kill()
                if writer:
                    writer.join()
                stderr.join()
            if writer and writer.error:
                raise writer.error
            if process.wait() != 0 and not left_early:
                raise (CpuTimeExceeded if process.returncode == -signal.SIGXCPU else GitError)(printable(stderr.text))

    def records(self, *arguments: str, end: bytes, input: Iterator[bytes] | None = None) -> Iterator[bytes]:
        """Yield the output of a git command in records. `end` is the byte that ends each record. Raises AnalysisError."""
        with self.stream(*arguments, input=input) as output:
            begin: list[bytes] = []  # of a record whose end was not read yet
            length = 0
            while chunk := output.read1(CHUNK_BYTES):  # type: ignore[attr-defined]
                first, *others = chunk.split(end)
                begin.append(first)
                length += len(first)
                if length > MAX_RECORD_BYTES:
                    text = f"This repository has a name or path that is longer than {MAX_RECORD_BYTES // 1024**2} MB."
                    raise AnalysisError(text, permanent=True)
                if others:
                    yield b"".join(begin)
                    *complete, last = others
                    yield from complete
                    begin, length = [last], len(last)
            if rest := b"".join(begin):
                yield rest


class _StderrReader(Thread):
    """Reads stderr, so that the command never blocks on a full pipe, and keeps the end of it in `text`."""

    def __init__(self, source: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._source = source
        self.text = b""
        self.start()

    def run(self) -> None:
        while chunk := self._source.read(MAX_STDERR_BYTES):
            self.text = (self.text + chunk)[-MAX_STDERR_BYTES:]


class _StdinWriter(Thread):
    """Writes to stdin while another thread reads the output."""

    def __init__(self, target: IO[bytes], chunks: Iterator[bytes]) -> None:
        super().__init__(daemon=True)
        self._target = target
        self._chunks = chunks
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            for chunk in self._chunks:
                self._target.write(chunk)
        except BrokenPipeError:
            pass  # the command has ended; its exit status is checked by `stream`
        except Exception as error:
            self.error = error
        finally:
            with suppress(BrokenPipeError):
                self._target.close()


def popen(
    command: Sequence[str], variables: Mapping[str, str], stdin: int | IO[bytes] = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=dict(variables), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def printable(text: bytes) -> str:
    """Decode untrusted text and replace control characters, which a terminal would interpret."""
    text = text.replace(b":\n\t", b": ")  # git continues some errors in a second line
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text.decode(errors="replace")).strip()


def decode_name(name: bytes) -> str:
    """Decode a path or tag. Bytes that are not UTF-8 become escapes, and very long names are cut."""
    text = name.decode(errors="backslashreplace")
    return text if len(text) <= MAX_NAME_LENGTH else f"{text[:MAX_NAME_LENGTH]}…"
