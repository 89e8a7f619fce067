"""Runs an analysis in a child process and supervises it, so that nothing in a repository can harm this process."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import IO, Any

from app.analysis.git import printable
from app.core.config import PROJECT_ROOT, Config
from app.jobs.failures import JobFailed, JobStopped

log = logging.getLogger(__name__)

NICENESS = 10  # requests have priority; starting the process alone takes most of a second of CPU time
PYTHON = ["nice", "-n", str(NICENESS), sys.executable]
COMMAND = [*PYTHON, "-m", "app.analysis"]
CLEANUP_COMMAND = [*PYTHON, "-m", "app.analysis.scratch"]
POLL_SECONDS = 0.25
STOP_TIMEOUT_SECONDS = 5.0  # for the process to remove its clone, before it is killed
CLEANUP_TIMEOUT_SECONDS = 10.0  # shorter than the lease of an analysis; the next cleanup removes the rest
MAX_OUTPUT_BYTES = 4 * 1024**2  # in total; a report has about 30 KB
MAX_STDERR_BYTES = 4000

CRASHED = "The analysis of this repository ended unexpectedly."


class AnalysisFailed(JobFailed):
    pass


@dataclass(frozen=True)
class AnalysisRequest:
    """The input of the process, as JSON."""

    url: str
    as_of: str
    roots: list[str]
    allowed_networks: list[str]
    max_bytes: int
    timeout_seconds: int
    is_past: bool = False  # analyse the repository as it was at `as_of`

    @classmethod
    def create(cls, url: str, config: Config) -> AnalysisRequest:
        return cls(
            url=url,
            as_of=datetime.now(UTC).isoformat(timespec="seconds"),
            roots=[str(root) for root in config.repository_roots],
            allowed_networks=[str(network) for network in config.repository_allowed_networks],
            max_bytes=config.repository_max_mb * 1024**2,
            timeout_seconds=config.repository_timeout,
        )


def run_analysis(
    request: AnalysisRequest, report_progress: Callable[[int, str], None], heartbeat: Callable[[], bool]
) -> dict[str, Any]:
    """Return the report. Raises AnalysisFailed.

    Calls `heartbeat` several times a second, and raises JobStopped when it returns False. Blocks the calling thread, or only the
    calling greenlet where gevent has patched the standard library.
    """
    deadline = time.monotonic() + request.timeout_seconds
    with _child_process(request) as lines:
        while True:
            if not heartbeat():
                raise JobStopped
            if time.monotonic() > deadline:
                text = f"The analysis took longer than {request.timeout_seconds} seconds."
                raise AnalysisFailed(text, permanent=True)
            with suppress(queue.Empty):
                report = _parse(lines.get(timeout=POLL_SECONDS), report_progress)
                if report is not None:
                    return report


Lines = queue.Queue[bytes]  # an empty line marks the end of the output


def _parse(line: bytes, report_progress: Callable[[int, str], None]) -> dict[str, Any] | None:
    """Return the report if the line contains it. Raises AnalysisFailed."""
    try:
        match json.loads(line):
            case {"progress": int(percent), "step": str(step)}:
                report_progress(percent, step)
                return None
            case {"report": dict(report)}:
                return report
            case {"error": str(text), "permanent": bool(permanent)}:
                raise AnalysisFailed(text, permanent=permanent)
    except (ValueError, RecursionError):  # not JSON
        pass
    raise AnalysisFailed(CRASHED, permanent=False)


@contextmanager
def _child_process(request: AnalysisRequest) -> Iterator[Lines]:
    """Start the process and yield its output. On exit, the process and all of its descendants are ended."""
    process = _start()
    assert process.stdin
    assert process.stdout
    assert process.stderr
    lines: Lines = queue.Queue()
    stderr: list[bytes] = []
    threads = [
        threading.Thread(target=_read_lines, args=[process.stdout, lines], daemon=True),
        threading.Thread(target=_read_stderr, args=[process.stderr, stderr], daemon=True),
    ]
    try:
        for thread in threads:
            thread.start()
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
            process.stdin.flush()
        yield lines
    finally:
        _stop(process)
        for thread in threads:
            thread.join()
        process.stdout.close()
        process.stderr.close()
        if process.returncode != 0:
            _remove_abandoned_clones()
        _log_result(request, process.returncode, b"".join(stderr))


def _start() -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            COMMAND, cwd=PROJECT_ROOT, env=_environment(), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
    except OSError as error:
        log.warning("could not start an analysis process: %s", error)
        raise AnalysisFailed(CRASHED, permanent=False) from None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end by closing its standard input, then kill its whole process group."""
    assert process.stdin
    with suppress(BrokenPipeError):
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _remove_abandoned_clones() -> None:
    """Run the cleanup in a process too: deleting a large clone would block the event loop for too long."""
    nothing = subprocess.DEVNULL
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(
            CLEANUP_COMMAND,
            cwd=PROJECT_ROOT,
            env=_environment(),
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
            timeout=CLEANUP_TIMEOUT_SECONDS,
            check=False,
        )


def _log_result(request: AnalysisRequest, status: int, stderr: bytes) -> None:
    text = " | ".join(line.strip() for line in printable(stderr[-MAX_STDERR_BYTES:]).splitlines() if line.strip())
    if status != 0 or text:
        log.warning("analysis process for %s exited with status %d, stderr: %s", request.url, status, text or "empty")


def _environment() -> dict[str, str]:
    """Return a minimal environment: the process must not get the secrets of this application."""
    names = ("PATH", "LANG", "LC_ALL", "TMPDIR", "GIT_SSL_CAINFO", "SSL_CERT_FILE")
    return {name: os.environ[name] for name in names if name in os.environ}


def _read_lines(output: IO[bytes], lines: Lines) -> None:
    remaining = MAX_OUTPUT_BYTES
    while (line := output.readline(remaining)).endswith(b"\n"):
        lines.put(line)
        remaining -= len(line)
    lines.put(b"")


def _read_stderr(output: IO[bytes], stderr: list[bytes]) -> None:
    while chunk := output.read(4096):
        stderr[:] = [b"".join(stderr)[-MAX_STDERR_BYTES:], chunk]
