"""The guide's Scaling Guidelines as code: what to do about an instance's load, and why. Without clocks, input and output."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
# The 95th percentile looks back a minute by itself: seconds of trouble stand in it for a minute. In three windows they are few.
P95_LOOKS_BACK_SECONDS = 60.0
P95_WINDOWS = 3
FULL_SHARE = 0.75  # of a window has to be known before anything is concluded from it
LONGEST_STEP_SECONDS = 5.0  # that one sample stands for; a process that was frozen knows nothing of the time between

BEGIN_QUANTILE = 0.5  # advice begins when half of the window is above the threshold ...
END_QUANTILE, END_SHARE = 0.9, 0.9  # ... and ends when nine tenths of it are below nine tenths of the threshold

CPU_PERCENT = 70.0
MEMORY_PERCENT = 80.0
P95_MS = 500.0
REDIS_LATENCY_MS = 10.0
CONNECTIONS = 1000.0
# Not in the guide, and no advice by themselves; they explain slow responses.
LOOP_DELAY_MS = 20.0
DATABASE_LATENCY_MS = 50.0

METRICS = ("cpu_percent", "memory_percent", "p95_ms", "redis_latency_ms", "connections")  # of the guide's table, in its order

ADD_INSTANCE = "Add an instance"
ADD_MEMORY = "Add an instance on another machine, or give this one more memory"
BUSY_FIRST = "Add an instance; if Redis stays slow, scale it or move it closer"
SCALE_REDIS = "Scale Redis or move it closer"
LOOK_AT_DATABASE = "Look at the database: slow queries, locks, its own load"
LOOK_AT_LOG = "Look at the log for the slow requests; more instances would not help"


@dataclass(frozen=True)
class Sample:
    """Of one instance, at one moment. None: no request in the last minute; no Redis, or no answer from it yet."""

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
    value: float  # the middle one of the window
    threshold: float
    action: str
    cause: str


class Advisor:
    """Of one instance. It is given a sample every second or so, and says what has held for long enough."""

    def __init__(self, window: float = WINDOW_SECONDS) -> None:
        p95_window = window * P95_WINDOWS
        self._cpu = _Watch(CPU_PERCENT, window)
        self._memory = _Watch(MEMORY_PERCENT, window)
        self._p95 = _Watch(P95_MS, p95_window)
        self._redis = _Watch(REDIS_LATENCY_MS, window)
        self._connections = _Watch(CONNECTIONS, window)
        self._loop = _Watch(LOOP_DELAY_MS, window)
        self._database = _Watch(DATABASE_LATENCY_MS, window)
        # A cause may be gone before its effect is: advice on responses ends that much later than other advice.
        self._cause_holds = p95_window + P95_LOOKS_BACK_SECONDS
        self._last = -math.inf

    def observe(self, sample: Sample) -> None:
        """Samples come in the order of their time, at most LONGEST_STEP_SECONDS apart where nothing is wrong."""
        at, step = sample.at, sample.at - self._last
        seconds = min(step, LONGEST_STEP_SECONDS) if math.isfinite(step) else 0.0
        self._cpu.observe(at, seconds, sample.cpu_percent)
        self._memory.observe(at, seconds, sample.memory_percent)
        self._p95.observe(at, seconds, sample.p95_ms or 0.0)
        self._redis.observe(at, seconds, sample.redis_latency_ms or 0.0)
        self._connections.observe(at, seconds, sample.connections)
        self._loop.observe(at, seconds, sample.loop_delay_ms)
        self._database.observe(at, seconds, sample.database_latency_ms or 0.0)
        self._last = at

    def advice(self) -> list[Advice]:
        """In the order of the guide's table."""
        rows = zip(
            METRICS,
            (self._cpu, self._memory, self._p95, self._redis, self._connections),
            (self._on_cpu, self._on_memory, self._on_responses, self._on_redis, self._on_connections),
            strict=True,
        )
        return [Advice(metric, round(watch.value, 1), watch.threshold, *speak()) for metric, watch, speak in rows if watch.stands]

    def _on_cpu(self) -> tuple[str, str]:
        return ADD_INSTANCE, f"CPU {self._cpu.value:.0f} % of the one core that an instance can use."

    def _on_memory(self) -> tuple[str, str]:
        return ADD_MEMORY, f"Memory {self._memory.value:.0f} % full. When it is full, the kernel kills processes."

    def _on_connections(self) -> tuple[str, str]:
        return ADD_INSTANCE, f"{self._connections.value:.0f} open connections. Those stay where they are; new ones will spread."

    def _on_redis(self) -> tuple[str, str]:
        answers = f"Redis answers in {self._redis.value:.1f} ms"
        # A busy instance is late to ask and to read: at 98 % CPU it measured ten times the latency of the same idle stores.
        if busy := self._busy(_stands):
            return BUSY_FIRST, f"{answers}, but that may be this instance being late: {busy}."
        return SCALE_REDIS, f"{answers}, and this instance is not busy ({self._load()})."

    def _on_responses(self) -> tuple[str, str]:
        slow = f"Slow responses (p95 {self._p95.value:.0f} ms)"
        for holds in (_stands, self._stood_lately):
            if busy := self._busy(holds):
                return ADD_INSTANCE, f"{slow}: {busy}."
            actions, facts = self._slow_stores(holds)
            if facts:
                return ". ".join(actions), f"{slow}: {' and '.join(facts)}. This instance is not busy ({self._load()})."
        return LOOK_AT_LOG, f"{slow}, and nothing is busy ({self._load()}): the requests themselves wait."

    def _busy(self, holds: Callable[[_Watch], bool]) -> str | None:
        if holds(self._cpu):
            return f"CPU {self._cpu.last_above:.0f} % of one core"
        if holds(self._loop):
            return f"the event loop is {self._loop.last_above:.0f} ms late"
        return None

    def _slow_stores(self, holds: Callable[[_Watch], bool]) -> tuple[list[str], list[str]]:
        """What to do, and what was found."""
        actions, facts = [], []
        if holds(self._redis):
            actions.append(SCALE_REDIS)
            facts.append(f"Redis answers in {self._redis.last_above:.0f} ms")
        if holds(self._database):
            actions.append(LOOK_AT_DATABASE)
            facts.append(f"the database answers in {self._database.last_above:.0f} ms")
        return actions, facts

    def _load(self) -> str:
        return f"CPU {self._cpu.value:.0f} %, event loop {self._loop.value:.0f} ms late"

    def _stood_lately(self, watch: _Watch) -> bool:
        return self._last - watch.above_at <= self._cause_holds


def _stands(watch: _Watch) -> bool:
    return watch.stands


class _Watch:
    """On one number: whether it stands above its threshold, judged by the last window."""

    def __init__(self, threshold: float, window: float) -> None:
        self.threshold = threshold
        self.value = 0.0  # the middle one of the window
        self.stands = False
        self.above_at, self.last_above = -math.inf, 0.0  # when the middle was last above, and what it was then
        self._window = window
        self._samples: deque[tuple[float, float, float]] = deque()  # at, seconds that it stands for, value

    def observe(self, at: float, seconds: float, value: float) -> None:
        self._samples.append((at, seconds, value))
        while self._samples[0][0] <= at - self._window:
            self._samples.popleft()
        if sum(seconds for _, seconds, _ in self._samples) < self._window * FULL_SHARE:
            return
        self.value = self._quantile(BEGIN_QUANTILE)
        if self.value > self.threshold:
            self.stands, self.above_at, self.last_above = True, at, self.value
        elif self._quantile(END_QUANTILE) < self.threshold * END_SHARE:
            self.stands = False

    def _quantile(self, share: float) -> float:
        """The value that is not exceeded for this share of the known time."""
        by_value = sorted((value, seconds) for _, seconds, value in self._samples)
        left = share * sum(seconds for _, seconds in by_value)
        for value, seconds in by_value:
            left -= seconds
            if left <= 0:
                return value
        return by_value[-1][0]
