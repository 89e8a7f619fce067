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

from app.config import PROJECT_ROOT, Config

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
MAX_LINE_BYTES = 8 * 1024**2  # a report has a few ten thousand
MAX_STDERR_BYTES = 4000

CRASHED = "The analysis of this repository ended unexpectedly."


class Stopped(Exception):
    """As the caller wished."""


class AnalysisFailed(Exception):
    """The text is for whoever asked. `permanent`: trying again would end in the same way."""

    def __init__(self, text: str, *, permanent: bool) -> None:
        super().__init__(text)
        self.permanent = permanent


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
    """The report. Asks several times a second whether to go on; raises Stopped if not, and AnalysisFailed.

    Waits in the way of the process: other threads go on, or other greenlets where gevent has patched the standard library.
    """
    deadline = time.monotonic() + request.timeout_seconds
    with _child(request) as messages:
        while True:
            if not keep_going():
                raise Stopped
            if time.monotonic() > deadline:
                text = f"The analysis took longer than {request.timeout_seconds} seconds."
                raise AnalysisFailed(text, permanent=True)
            with suppress(queue.Empty):
                message = messages.get(timeout=LOOK_SECONDS)
                if message is None:
                    raise AnalysisFailed(CRASHED, permanent=False)
                if "report" in message:
                    report: dict[str, Any] = message["report"]
                    return report
                if "error" in message:
                    raise AnalysisFailed(message["error"], permanent=message["permanent"])
                report_progress(message["progress"], message["step"])


Messages = queue.Queue[dict[str, Any] | None]  # None: there will be no more


@contextmanager
def _child(request: Request) -> Iterator[Messages]:
    """The process, which is gone afterwards with all that it has started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app.analysis"],
        cwd=PROJECT_ROOT,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
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
        if complaint := b"".join(complaints).decode(errors="replace").strip():
            log.warning("the analysis of %s said: %s", request.url, complaint[-MAX_STDERR_BYTES:])


GRACE_SECONDS = 2.0  # for the process to remove its clone when it is told that nobody waits


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    with suppress(BrokenPipeError):
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment() -> dict[str, str]:
    """No secret of this application's goes along."""
    passed_on = ("PATH", "LANG", "LC_ALL", "TMPDIR", "GIT_SSL_CAINFO", "SSL_CERT_FILE")
    return {name: os.environ[name] for name in passed_on if name in os.environ}


def _read_messages(output: IO[bytes], messages: Messages) -> None:
    with suppress(ValueError):  # which is also what broken JSON is
        while (line := output.readline(MAX_LINE_BYTES)).endswith(b"\n"):
            messages.put(json.loads(line))
    messages.put(None)


def _read_complaints(output: IO[bytes], complaints: list[bytes]) -> None:
    while chunk := output.read(4096):
        complaints[:] = [b"".join(complaints)[-MAX_STDERR_BYTES:], chunk]
