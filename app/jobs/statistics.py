"""The numbers of jobs that this process runs and has ended. Its threads share them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.core import metrics

SUCCEEDED, FAILED, RETRIED, RELEASED, LOST = "succeeded", "failed", "retried", "released", "lost"


@dataclass
class Attempt:
    outcome: str = LOST  # if an unforeseen error ends it, its lease expires


class JobStatistics:
    def __init__(self) -> None:
        self.running = 0
        self.finished = 0  # succeeded or failed
        self.released = 0  # for other workers, because this process stops
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, kind: str) -> Iterator[Attempt]:
        """Count one attempt at a job. The caller sets its outcome."""
        attempt, started = Attempt(), time.monotonic()
        with self._lock:
            self.running += 1
        try:
            yield attempt
        finally:
            metrics.job_seconds.observe(time.monotonic() - started, kind, attempt.outcome)
            with self._lock:
                self.running -= 1
                self.finished += attempt.outcome in (SUCCEEDED, FAILED)
                self.released += attempt.outcome == RELEASED
