"""The load of this instance, sampled in the background."""

from __future__ import annotations

import time

import gevent
import psutil

SAMPLE_EVERY_SECONDS = 1.0


class Load:
    def __init__(self) -> None:
        self._process = psutil.Process()
        self.cpu_percent = 0.0
        self.memory_percent = 0.0
        self.loop_delay_ms = 0.0

    def run(self) -> None:
        """For ever, as a greenlet; how late it is woken up tells how busy the event loop is."""
        while True:
            asked_for = time.monotonic() + SAMPLE_EVERY_SECONDS
            gevent.sleep(SAMPLE_EVERY_SECONDS)
            self.loop_delay_ms = max(0.0, time.monotonic() - asked_for) * 1000
            self.cpu_percent = self._process.cpu_percent()
            self.memory_percent = self._process.memory_percent()

    def describe(self) -> dict[str, float]:
        """CPU in percent of one core since the last sample, memory in percent of the machine's, the event loop's delay in ms."""
        return {
            "cpu_percent": round(self.cpu_percent, 1),
            "memory_percent": round(self.memory_percent, 2),
            "loop_delay_ms": round(self.loop_delay_ms, 1),
        }
