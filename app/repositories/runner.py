"""Has an analysis done by a process of its own, and watches over it: nothing that a repository does can hurt this one."""

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

NICENESS = 10  # requests come first, from the start: it alone takes most of a second of a processor
COMMAND = ["nice", "-n", str(NICENESS), sys.executable, "-m", "app.analysis"]
LOOK_SECONDS = 0.25
GRACE_SECONDS = 5.0  # for the process to remove its clone when it is told that nobody waits
CLEANING_SECONDS = 10.0  # the lease of an analysis must not run out meanwhile; the next one cleans the rest
MAX_OUTPUT_BYTES = 4 * 1024**2  # of a process in its whole life; a report has a few ten thousand
MAX_COMPLAINT_BYTES = 4000

CRASHED = "The analysis of this repository ended unexpectedly."


class AnalysisFailed(JobFailed):
    pass


@dataclass(frozen=True)
class Request:
    """All that the analysis is told, as JSON."""

    url: str
    as_of: str
    roots: list[str]
    allowed_networks: list[str]
    max_bytes: int
    timeout_seconds: int

    @classmethod
    def of(cls, url: str, config: Config) -> Request:
        return cls(
            url=url,
            as_of=datetime.now(UTC).isoformat(timespec="seconds"),
            roots=[str(root) for root in config.repository_roots],
            allowed_networks=[str(network) for network in config.repository_allowed_networks],
            max_bytes=config.repository_max_mb * 1024**2,
            timeout_seconds=config.repository_timeout,
        )


def run(request: Request, report_progress: Callable[[int, str], None], keep_going: Callable[[], bool]) -> dict[str, Any]:
    """The report. Asks several times a second whether to go on; raises JobStopped if not, and AnalysisFailed.

    Waits in the way of the process: other threads go on, or other greenlets where gevent has patched the standard library.
    """
    deadline = time.monotonic() + request.timeout_seconds
    with _child(request) as messages:
        while True:
            if not keep_going():
                raise JobStopped
            if time.monotonic() > deadline:
                text = f"The analysis took longer than {request.timeout_seconds} seconds."
                raise AnalysisFailed(text, permanent=True)
            with suppress(queue.Empty):
                report = _understand(messages.get(timeout=LOOK_SECONDS), report_progress)
                if report is not None:
                    return report


Messages = queue.Queue[bytes]  # lines; an empty one: there will be no more


def _understand(line: bytes, report_progress: Callable[[int, str], None]) -> dict[str, Any] | None:
    """The report, if it is one. Raises AnalysisFailed."""
    try:
        match json.loads(line):
            case {"progress": int(percent), "step": str(step)}:
                report_progress(percent, step)
                return None
            case {"report": dict(report)}:
                return report
            case {"error": str(text), "permanent": bool(permanent)}:
                raise AnalysisFailed(text, permanent=permanent)
    except (ValueError, RecursionError):  # it is no JSON
        pass
    raise AnalysisFailed(CRASHED, permanent=False)


@contextmanager
def _child(request: Request) -> Iterator[Messages]:
    """What the process says. It is gone afterwards, with all that it has started."""
    process = _start()
    assert process.stdin
    assert process.stdout
    assert process.stderr
    messages: Messages = queue.Queue()
    complaints: list[bytes] = []
    threads = [
        threading.Thread(target=_read_messages, args=[process.stdout, messages], daemon=True),
        threading.Thread(target=_read_complaints, args=[process.stderr, complaints], daemon=True),
    ]
    try:
        for thread in threads:
            thread.start()
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
            process.stdin.flush()
        yield messages
    finally:
        _end(process)
        for thread in threads:
            thread.join()
        process.stdout.close()
        process.stderr.close()
        if process.returncode != 0:
            _remove_what_it_left()
        _log(request, process.returncode, b"".join(complaints))


def _start() -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            COMMAND, cwd=PROJECT_ROOT, env=_environment(), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
    except OSError as error:
        log.warning("no process for an analysis can be started: %s", error)
        raise AnalysisFailed(CRASHED, permanent=False) from None


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    with suppress(BrokenPipeError):
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _remove_what_it_left() -> None:
    """By a process too: a large clone would take longer than an event loop may wait."""
    command = ["nice", "-n", str(NICENESS), sys.executable, "-m", "app.analysis.scratch"]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command,
            cwd=PROJECT_ROOT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=CLEANING_SECONDS,
            check=False,
        )


def _log(request: Request, status: int, complaint: bytes) -> None:
    said = " | ".join(line.strip() for line in printable(complaint[-MAX_COMPLAINT_BYTES:]).splitlines() if line.strip())
    if status != 0 or said:
        log.warning("the process that analysed %s ended with status %d and said: %s", request.url, status, said or "nothing")


def _environment() -> dict[str, str]:
    """No secret of this application's goes along."""
    passed_on = ("PATH", "LANG", "LC_ALL", "TMPDIR", "GIT_SSL_CAINFO", "SSL_CERT_FILE")
    return {name: os.environ[name] for name in passed_on if name in os.environ}


def _read_messages(output: IO[bytes], messages: Messages) -> None:
    left = MAX_OUTPUT_BYTES
    while (line := output.readline(left)).endswith(b"\n"):
        messages.put(line)
        left -= len(line)
    messages.put(b"")


def _read_complaints(output: IO[bytes], complaints: list[bytes]) -> None:
    while chunk := output.read(4096):
        complaints[:] = [b"".join(complaints)[-MAX_COMPLAINT_BYTES:], chunk]
