"""Whether the dependencies answer: one probe each, in the background, whatever the rate at which somebody asks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import gevent

from app.core import metrics

log = logging.getLogger(__name__)

PROBE_EVERY_SECONDS = 0.5  # a dependency that came back is seen within that time
PROBE_TIMEOUT_SECONDS = 5.0  # no answer until then is a failure; an answer before is slow at most
SLOW_SECONDS = 0.25
UNREADY_AFTER_SECONDS = 10.0

PASS, WARN, FAIL = "pass", "warn", "fail"


@dataclass
class Probe:
    """Of one dependency. `ask` returns None, or words on what is wrong; it raises where no answer comes in time. `look` finds
    what an operator should mend though all requests are served."""

    name: str
    check: Callable[[], str | None]
    find_warning: Callable[[], str | None] = lambda: None
    error: str | None = None
    warning: str | None = None
    latency: float | None = None
    _asked_at: float | None = None  # of the probe that is under way
    _failing_since: float | None = None
    _answered_once: bool = False

    def run(self) -> None:
        """For ever, as a greenlet."""
        while True:
            self.probe()
            gevent.sleep(PROBE_EVERY_SECONDS)

    def probe(self) -> None:
        self._asked_at = time.monotonic()
        try:
            self.error = self.check()
        except Exception as error:
            self._failed(error)
        else:
            self._answered()
        finally:
            self._asked_at = None
        if self._failing_since is None:
            self._update_warning()

    @property
    def latency_ms(self) -> float | None:
        """Of the last answer, or of the one that is waited for if that takes longer already. None before the first."""
        return None if self.latency is None else round(max(self.latency, self._waiting) * 1000, 2)

    @property
    def status(self) -> str:
        if not self._answered_once or self.error or self.failing_for > 0:
            return FAIL
        return WARN if self.warning or max(self.latency or 0, self._waiting) > SLOW_SECONDS else PASS

    @property
    def failing_for(self) -> float:
        """Seconds since the first of the probes in a row that were not answered, or not in time, was sent."""
        if self._failing_since is not None:
            return time.monotonic() - self._failing_since
        return self._waiting if self._waiting > PROBE_TIMEOUT_SECONDS else 0.0

    def not_ready_reason(self) -> str | None:
        """Why the instance should not be ready. Slow is not failed, and neither is a short failure of one that was ready."""
        if not self._answered_once:
            return f"{self.name} has not answered yet"
        if self.error:
            return f"{self.name}: {self.error}"
        return f"{self.name} has failed for {self.failing_for:.0f} s" if self.failing_for > UNREADY_AFTER_SECONDS else None

    @property
    def _waiting(self) -> float:
        return time.monotonic() - self._asked_at if self._asked_at is not None else 0.0

    def _update_warning(self) -> None:
        try:
            warning = self.find_warning()
        except Exception as error:  # if it is one of the dependency, the next question tells
            log.debug("%s could not be looked at: %s", self.name, error)
            return
        if warning and warning != self.warning:
            log.warning("%s: %s", self.name, warning)
        self.warning = warning

    def _answered(self) -> None:
        assert self._asked_at is not None
        if self._failing_since is not None:
            log.info("%s answers again after %.1f s", self.name, self.failing_for)
        self.latency, self._failing_since, self._answered_once = self._waiting, None, True
        metrics.dependency_up.labels(self.name).set(1)
        metrics.dependency_latency.labels(self.name).set(self.latency)

    def _failed(self, error: Exception) -> None:
        if self._failing_since is None:
            self._failing_since = self._asked_at
            cause = error.__cause__ or error
            log.warning("%s does not answer: %s: %s", self.name, type(cause).__name__, str(cause).partition("\n")[0])
        metrics.dependency_up.labels(self.name).set(0)


def latencies(probes: list[Probe]) -> dict[str, float | None]:
    """In milliseconds; None for what there is not, or has not answered yet."""
    return {"redis_latency_ms": None, **{f"{probe.name}_latency_ms": probe.latency_ms for probe in probes}}
