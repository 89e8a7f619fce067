"""The load of this instance, sampled every second."""

import time

import gevent
import psutil

from app.core import metrics
from app.core.tasks import InstanceTask
from app.health import memory
from app.health.latency import ResponseTimes

SAMPLE_EVERY_SECONDS = 1.0


class Load:
    """CPU in percent of one core, memory in percent of the container's limit or of the machine, and the event-loop lag."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._task = InstanceTask("load", SAMPLE_EVERY_SECONDS)
        self.response_times = ResponseTimes()
        self.cpu_percent = 0.0
        self.memory_percent = 0.0
        self.loop_delay_ms = 0.0

    @property
    def p95_ms(self) -> float | None:
        """The 95th percentile of the time to the first byte in the last minute, or None if there was no response."""
        seconds = self.response_times.percentile(95)
        return None if seconds is None else seconds * 1000

    def run(self) -> None:
        """Sample for ever. The delay of each wake-up is the event-loop lag."""
        while True:
            due_at = time.monotonic() + SAMPLE_EVERY_SECONDS
            gevent.sleep(SAMPLE_EVERY_SECONDS)
            self.sample(max(0.0, time.monotonic() - due_at))

    def sample(self, loop_lag_seconds: float) -> None:
        self.cpu_percent = self._process.cpu_percent()
        self.memory_percent = memory.used_percent()
        self.loop_delay_ms = loop_lag_seconds * 1000
        metrics.cpu_percent.set(self.cpu_percent)
        metrics.memory_percent.set(self.memory_percent)
        metrics.loop_delay.set(loop_lag_seconds)
        self._task.succeed()

    def describe(self) -> dict[str, float | None]:
        p95 = self.p95_ms
        return {
            "cpu_percent": round(self.cpu_percent, 1),
            "memory_percent": round(self.memory_percent, 1),
            "loop_delay_ms": round(self.loop_delay_ms, 1),
            "p95_ms": None if p95 is None else round(p95, 1),
        }
