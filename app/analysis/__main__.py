"""Runs one analysis: `python -m app.analysis`, supervised by `app.repositories.analysis_process`.

The request is one line of JSON on standard input. The output is lines of JSON: `{"progress": 42, "step": "..."}`, and finally
`{"report": {...}}` or `{"error": "...", "permanent": true}`. When standard input closes, this process and its children end.
"""

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
from app.analysis.failures import AnalysisError
from app.analysis.git import GitError

MAX_MEMORY_BYTES = 2 * 1024**3  # address space of this process, and of each git process
MAX_OPEN_FILES = 4096  # of a local repository, each large pack and its index are open
MIN_FILE_SIZE_LIMIT_BYTES = 64 * 1024**2
FETCH_PERCENT, OPEN_PERCENT = 60, 1  # share of the total progress before the report: of a clone, and of a local repository
PROGRESS_INTERVAL_SECONDS = 0.2

UNEXPECTED = "This repository could not be analysed because of an unexpected error."
OUT_OF_MEMORY = "The analysis of this repository exceeded the memory limit."


class Output:
    """Writes lines of JSON. Progress never decreases, and is written at most once per interval and step."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._percent, self._step, self._written_at = 0, "", 0.0

    def progress(self, percent: float, step: str) -> None:
        with self._lock:
            self._percent = max(self._percent, int(percent))
            if step != self._step or time.monotonic() - self._written_at > PROGRESS_INTERVAL_SECONDS:
                self._step, self._written_at = step, time.monotonic()
                self._write({"progress": self._percent, "step": step})

    def outcome(self, outcome: dict[str, Any]) -> None:
        with self._lock:
            self._write(outcome)

    def _write(self, message: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def main() -> None:
    # Platforms send SIGTERM to all processes of a service. The parent needs a moment to release the job, and then stops this one.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    request = json.loads(sys.stdin.readline())
    set_limits(request["max_bytes"])
    with scratch.temporary_folder() as folder:
        threading.Thread(target=exit_when_stdin_closes, args=[folder], daemon=True).start()
        output = Output()
        output.outcome(run(request, folder, output))


def set_limits(max_bytes: int) -> None:
    """Limit this process and its children. There is no RLIMIT_NPROC, which counts all processes of the user."""
    for kind, wanted in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, max(max_bytes, MIN_FILE_SIZE_LIMIT_BYTES)),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (limit, limit))


def exit_when_stdin_closes(folder: Path) -> None:
    with suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    kill_children()  # first, as they write to the folder
    scratch.remove(folder)
    kill_children()
    os._exit(0)


def kill_children() -> None:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def run(request: dict[str, Any], folder: Path, output: Output) -> dict[str, Any]:
    """Return the last line of the output: the report or the error."""
    try:
        return {"report": analyse(request, folder, output)}
    except (AddressRefused, AnalysisError) as error:
        return {"error": str(error), "permanent": getattr(error, "permanent", True)}
    except MemoryError:
        return {"error": OUT_OF_MEMORY, "permanent": True}
    except GitError as error:
        sys.stderr.write(f"git: {error.stderr}\n")
        unreadable = clone.unreadable(error.stderr, folder)
        return {"error": str(unreadable), "permanent": unreadable.permanent}
    except Exception:
        traceback.print_exc()
        return {"error": UNEXPECTED, "permanent": False}


def analyse(request: dict[str, Any], folder: Path, output: Output) -> dict[str, Any]:
    address = parse(request["url"], [Path(root) for root in request["roots"]])
    allowed = [ip_network(text) for text in request["allowed_networks"]]

    fetch_percent = OPEN_PERCENT if address.is_local else FETCH_PERCENT

    def on_fetch_progress(fraction: float, step: str) -> None:
        output.progress(fraction * fetch_percent, step)

    def on_report_progress(fraction: float, step: str) -> None:
        output.progress(fetch_percent + fraction * (99 - fetch_percent), step)

    as_of = datetime.fromisoformat(request["as_of"])
    until = as_of if request.get("is_past") else None
    repository = clone.fetch(address, folder, allowed, request["max_bytes"], on_fetch_progress, until)
    return report.build(repository, as_of, on_report_progress)


if __name__ == "__main__":
    main()
