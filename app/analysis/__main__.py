"""One analysis: `python -m app.analysis`, supervised by `app.repositories.analysis_process`.

One line of JSON comes in, lines of JSON go out: `{"progress": 42, "step": "..."}`, and at the end `{"report": {...}}` or
`{"error": "...", "permanent": true}`. Standard input stays open as long as somebody wants the outcome: when it ends, so does
everything here.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from datetime import datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import psutil

from app.analysis import clone, report, scratch
from app.analysis.address import AddressRefused, parse
from app.analysis.failures import Failure
from app.analysis.git import GitError

MAX_MEMORY_BYTES = 2 * 1024**3  # address space of this process, and of each git
MAX_OPEN_FILES = 256
MIN_FILE_BYTES = 64 * 1024**2
FETCH_PERCENT, REPORT_PERCENT = 60, 39  # of the whole
PROGRESS_SECONDS = 0.2

UNEXPECTED = "Something in this repository could not be analysed."
OUT_OF_MEMORY = "Analysing this repository takes more memory than it may."


class Output:
    """Lines of JSON; progress neither goes back nor comes too often."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._percent, self._step, self._said_at = 0, "", 0.0

    def progress(self, percent: float, step: str) -> None:
        with self._lock:
            self._percent = max(self._percent, int(percent))
            if step != self._step or time.monotonic() - self._said_at > PROGRESS_SECONDS:
                self._step, self._said_at = step, time.monotonic()
                self._write({"progress": self._percent, "step": step})

    def end(self, outcome: dict[str, Any]) -> None:
        with self._lock:
            self._write(outcome)

    def _write(self, message: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def main() -> None:
    # Platforms that stop a service send this to all of its processes. The parent hands the work over, which takes a moment.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    request = json.loads(sys.stdin.readline())
    limit(request["max_bytes"])
    with scratch.folder() as folder:
        threading.Thread(target=end_with_parent, args=[folder], daemon=True).start()
        output = Output()
        output.end(outcome_of(request, folder, output))


def limit(max_bytes: int) -> None:
    """What this process and those that it starts may take. Of processes there is no limit: it would be one of the whole user."""
    for kind, most in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, max(max_bytes, MIN_FILE_BYTES)),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def end_with_parent(folder: Path) -> None:
    """Waits for the end of standard input. First those who write to the folder have to go, then it, then this process."""
    with suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    kill_children()
    scratch.remove(folder)
    kill_children()
    os._exit(0)


def kill_children() -> None:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def outcome_of(request: dict[str, Any], folder: Path, output: Output) -> dict[str, Any]:
    try:
        return {"report": analyse(request, folder, output)}
    except (AddressRefused, Failure) as failure:
        return {"error": str(failure), "permanent": getattr(failure, "permanent", True)}
    except MemoryError:
        return {"error": OUT_OF_MEMORY, "permanent": True}
    except GitError as error:
        sys.stderr.write(f"git: {error.complaint}\n")
        return {"error": UNEXPECTED, "permanent": False}
    except Exception:
        traceback.print_exc()
        return {"error": UNEXPECTED, "permanent": False}


def analyse(request: dict[str, Any], folder: Path, output: Output) -> dict[str, Any]:
    address = parse(request["url"], [Path(root) for root in request["roots"]])
    allowed = [ip_network(text) for text in request["allowed_networks"]]

    def fetching(fraction: float, step: str) -> None:
        output.progress(fraction * FETCH_PERCENT, step)

    def reporting(fraction: float, step: str) -> None:
        output.progress(FETCH_PERCENT + fraction * REPORT_PERCENT, step)

    repository = clone.fetch(address, folder, allowed, request["max_bytes"], fetching)
    return report.build(repository, datetime.fromisoformat(request["as_of"]), reporting)


if __name__ == "__main__":
    main()
