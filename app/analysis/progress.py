"""The progress of building a report."""

import time
from collections.abc import Callable

REPORT_INTERVAL_SECONDS = 0.4


class Progress:
    """Reports the progress of consecutive steps, at most once per interval. The shares of all steps add up to 1."""

    def __init__(self, report: Callable[[float, str], None]) -> None:
        self._report = report
        self._step = ""
        self._start = self._share = 0.0
        self._reported_at = -REPORT_INTERVAL_SECONDS

    def begin(self, step: str, share: float) -> None:
        self._start += self._share
        self._step, self._share = step, share
        self.advance(0, 1)

    def advance(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._reported_at >= REPORT_INTERVAL_SECONDS:
            self._reported_at = now
            self._report(min(1.0, self._start + self._share * min(1.0, done / max(1, total))), self._step)

    def finish(self) -> None:
        self._report(1.0, self._step or "Reading the history")  # without commits there were no steps
