"""The Scaling Guidelines as code: what to do about the load of an instance, and why. Pure computation without clock or I/O."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
# The 95th percentile covers the last minute, so a spike of seconds raises it for a whole minute. Three windows outweigh that.
P95_LOOKS_BACK_SECONDS = 60.0
P95_WINDOWS = 3
FULL_SHARE = 0.75  # share of a window that samples must cover before it is judged
LONGEST_STEP_SECONDS = 5.0  # that one sample covers; a process that was frozen knows nothing about the time between

BEGIN_QUANTILE = 0.5  # advice begins when half of the window is above the threshold ...
END_QUANTILE, END_SHARE = 0.9, 0.9  # ... and ends when 90 % of the window is below 90 % of the threshold

CPU_PERCENT = 70.0
MEMORY_PERCENT = 80.0
P95_MS = 500.0
REDIS_LATENCY_MS = 10.0
CONNECTIONS = 1000.0
# These two are not in the guide. They give no advice of their own but explain slow responses.
LOOP_DELAY_MS = 20.0
DATABASE_LATENCY_MS = 50.0

METRICS = ("cpu_percent", "memory_percent", "p95_ms", "redis_latency_ms", "connections")  # in the order of the guide's table

ADD_INSTANCE = "Add an instance"
ADD_MEMORY = "Add an instance on another machine, or give this one more memory"
BUSY_FIRST = "Add an instance; if Redis stays slow, scale it or move it closer"
SCALE_REDIS = "Scale Redis or move it closer"
CHECK_DATABASE = "Check the database for slow queries, locks and its own load"
CHECK_LOG = "Find the slow requests in the log; more instances would not help"


@dataclass(frozen=True)
class Sample:
    """The load of one instance at one time. None: no request in the last minute; no Redis, or no reply from it yet."""

    at: float  # monotonic seconds
    cpu_percent: float  # of one core
    memory_percent: float
    loop_delay_ms: float
    p95_ms: float | None
    redis_latency_ms: float | None
    database_latency_ms: float | None
    connections: int


@dataclass(frozen=True)
class Advice:
    metric: str
    value: float  # median of the window; while that is below the threshold, the value that keeps the advice
    threshold: float
    action: str
    cause: str


class Advisor:
    """Turns the samples of one instance, about one a second, into advice on what has persisted for a whole window."""

    def __init__(self, window: float = WINDOW_SECONDS) -> None:
        p95_window = window * P95_WINDOWS
        self._cpu = _ThresholdWatch(CPU_PERCENT, window)
        self._memory = _ThresholdWatch(MEMORY_PERCENT, window)
        self._p95 = _ThresholdWatch(P95_MS, p95_window)
        self._redis = _ThresholdWatch(REDIS_LATENCY_MS, window)
        self._connections = _ThresholdWatch(CONNECTIONS, window)
        self._loop = _ThresholdWatch(LOOP_DELAY_MS, window)
        self._database = _ThresholdWatch(DATABASE_LATENCY_MS, window)
        # Slow responses outlast their cause by this much, because their window and the percentile itself look further back.
        self._cause_seconds = p95_window + P95_LOOKS_BACK_SECONDS
        self._last_at = -math.inf

    def observe(self, sample: Sample) -> None:
        """Add a sample. Samples come in the order of their time, at most LONGEST_STEP_SECONDS apart under normal conditions."""
        at, step = sample.at, sample.at - self._last_at
        seconds = min(step, LONGEST_STEP_SECONDS) if math.isfinite(step) else 0.0
        self._cpu.observe(at, seconds, sample.cpu_percent)
        self._memory.observe(at, seconds, sample.memory_percent)
        self._p95.observe(at, seconds, sample.p95_ms)
        self._redis.observe(at, seconds, sample.redis_latency_ms)
        self._connections.observe(at, seconds, sample.connections)
        self._loop.observe(at, seconds, sample.loop_delay_ms)
        self._database.observe(at, seconds, sample.database_latency_ms)
        self._last_at = at

    def advice(self) -> list[Advice]:
        """Return the current advice in the order of the guide's table."""
        rows = zip(
            METRICS,
            (self._cpu, self._memory, self._p95, self._redis, self._connections),
            (self._explain_cpu, self._explain_memory, self._explain_responses, self._explain_redis, self._explain_connections),
            strict=True,
        )
        return [
            Advice(metric, round(watch.value, 1), watch.threshold, *explain()) for metric, watch, explain in rows if watch.is_high
        ]

    def _explain_cpu(self) -> tuple[str, str]:
        return ADD_INSTANCE, f"The CPU is at {self._cpu.value:.0f} % of the one core that an instance can use."

    def _explain_memory(self) -> tuple[str, str]:
        return ADD_MEMORY, f"The memory is {self._memory.value:.0f} % full. The kernel kills processes when it is full."

    def _explain_connections(self) -> tuple[str, str]:
        cause = f"{self._connections.value:.0f} connections are open. They stay here; new ones spread over all instances."
        return ADD_INSTANCE, cause

    def _explain_redis(self) -> tuple[str, str]:
        latency = f"Redis answers in {self._redis.value:.1f} ms"
        # A busy instance sends and reads late: at 98 % CPU it measured ten times the latency of the same idle stores.
        if busy := self._busy(_is_high):
            return BUSY_FIRST, f"{latency}, but part of that may be this instance's own delay: {busy}."
        return SCALE_REDIS, f"{latency}, and this instance is not busy ({self._load()})."

    def _explain_responses(self) -> tuple[str, str]:
        slow = f"Responses are slow (p95 {self._p95.value:.0f} ms)"
        for holds in (_is_high, self._was_high_recently):
            if busy := self._busy(holds):
                return ADD_INSTANCE, f"{slow}: {busy}."
            actions, facts = self._slow_stores(holds)
            if facts:
                return ". ".join(actions), f"{slow}: {' and '.join(facts)}. This instance is not busy ({self._load()})."
        return CHECK_LOG, f"{slow}, but neither the instance nor its stores are busy ({self._load()})."

    def _busy(self, holds: Callable[[_ThresholdWatch], bool]) -> str | None:
        if holds(self._cpu):
            return f"the CPU is at {self._cpu.last_high:.0f} % of one core"
        if holds(self._loop):
            return f"the event-loop lag is {self._loop.last_high:.0f} ms"
        return None

    def _slow_stores(self, holds: Callable[[_ThresholdWatch], bool]) -> tuple[list[str], list[str]]:
        actions, facts = [], []
        if holds(self._redis):
            actions.append(SCALE_REDIS)
            facts.append(f"Redis answers in {self._redis.last_high:.0f} ms")
        if holds(self._database):
            actions.append(CHECK_DATABASE)
            facts.append(f"the database answers in {self._database.last_high:.0f} ms")
        return actions, facts

    def _load(self) -> str:
        return f"CPU {self._cpu.value:.0f} %, event-loop lag {self._loop.value:.0f} ms"

    def _was_high_recently(self, watch: _ThresholdWatch) -> bool:
        return self._last_at - watch.last_high_at <= self._cause_seconds


def _is_high(watch: _ThresholdWatch) -> bool:
    return watch.is_high


class _ThresholdWatch:
    """Judges by the last window whether one number is above its threshold."""

    def __init__(self, threshold: float, window: float) -> None:
        self.threshold = threshold
        self.value = 0.0  # see Advice
        self.is_high = False
        self.last_high_at, self.last_high = -math.inf, 0.0  # when the median was last above the threshold, and its value then
        self._window = window
        self._samples: deque[tuple[float, float, float]] = deque()  # at, seconds that it covers, value

    def observe(self, at: float, seconds: float, value: float | None) -> None:
        if value is None:  # nothing is left to judge
            self._samples.clear()
            self.value, self.is_high = 0.0, False
            return
        self._samples.append((at, seconds, value))
        while self._samples[0][0] <= at - self._window:
            self._samples.popleft()
        covered = sum([seconds for _, seconds, _ in self._samples])
        if covered < self._window * FULL_SHARE:
            return
        by_value = sorted([(value, seconds) for _, seconds, value in self._samples])
        self.value = _quantile(by_value, covered * BEGIN_QUANTILE)
        high_value = _quantile(by_value, covered * END_QUANTILE)
        if self.value > self.threshold:
            self.is_high, self.last_high_at, self.last_high = True, at, self.value
        elif high_value < self.threshold * END_SHARE:
            self.is_high = False
        elif self.is_high:
            self.value = high_value


def _quantile(by_value: list[tuple[float, float]], left: float) -> float:
    """Return the value that is not exceeded during this many seconds, from sorted pairs of value and seconds."""
    for value, seconds in by_value:
        left -= seconds
        if left <= 0:
            return value
    return by_value[-1][0]
