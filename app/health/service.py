"""Whether the dependencies answer: one background probe each, however often the health routes are requested."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import gevent

from app.core import metrics
from app.core.tasks import InstanceTask
from app.core.warnings import OperatorWarning

log = logging.getLogger(__name__)

PROBE_EVERY_SECONDS = 0.5  # a recovered dependency is noticed within this time
PROBE_TIMEOUT_SECONDS = 5.0  # later than this is a failure, earlier is slow at most
SLOW_SECONDS = 0.25
UNREADY_AFTER_SECONDS = 10.0

PASS, WARN, FAIL = "pass", "warn", "fail"


class HealthCheck(Protocol):
    """One of the `checks` in `/health`."""

    @property
    def name(self) -> str: ...

    @property
    def status(self) -> str: ...

    @property
    def reason(self) -> str | None:
        """The code of why the status is not `pass`, or None."""

    @property
    def warning(self) -> OperatorWarning | None: ...

    @property
    def latency_ms(self) -> float | None: ...


@dataclass(frozen=True)
class WarningCheck:
    """A check that can only warn, because requests are served anyway. `find_warning` returns what was last found, without I/O."""

    name: str
    find_warning: Callable[[], OperatorWarning | None]
    latency_ms: None = None

    @property
    def warning(self) -> OperatorWarning | None:
        return self.find_warning()

    @property
    def status(self) -> str:
        return WARN if self.warning else PASS

    @property
    def reason(self) -> str | None:
        return self.warning.reason if self.warning else None


@dataclass
class Probe:
    """The probe of one dependency.

    `check` returns None or what is wrong, and raises if there is no reply in time. `find_warning` returns what an operator
    should fix although all requests are served, or None. `find_cause` returns why there is no reply, if that is known.
    """

    name: str  # its address is in the setting NAME_URL
    check: Callable[[], str | None]
    find_warning: Callable[[], OperatorWarning | None] = lambda: None
    find_cause: Callable[[], str | None] = lambda: None
    error: str | None = None
    warning: OperatorWarning | None = None
    latency: float | None = None
    _started_at: float | None = None  # of the probe in progress
    _failing_since: float | None = None
    _has_answered: bool = False

    def __post_init__(self) -> None:
        self._task = InstanceTask(f"probe of {self.name}", PROBE_EVERY_SECONDS)

    def run(self) -> None:
        while True:
            self.probe()
            gevent.sleep(PROBE_EVERY_SECONDS)

    def probe(self) -> None:
        self._started_at = time.monotonic()
        try:
            self.error = self.check()
        except Exception as error:
            self._on_failure(error)
        else:
            self._on_answer()
        finally:
            self._started_at = None
        if self._failing_since is None:
            self._update_warning()

    @property
    def latency_ms(self) -> float | None:
        """The latency of the last reply, or the age of the probe in progress if that is longer. None before the first reply."""
        return None if self.latency is None else round(max(self.latency, self._waiting) * 1000, 2)

    @property
    def status(self) -> str:
        if not self._has_answered or self.error or self.failing_for > 0:
            return FAIL
        return WARN if self.warning or max(self.latency or 0, self._waiting) > SLOW_SECONDS else PASS

    @property
    def reason(self) -> str | None:
        """The code of why the status is not `pass`, or None."""
        if self.status == PASS:
            return None
        if self.status == WARN:
            return self.warning.reason if self.warning else "slow"
        if not self._has_answered:
            return "not_answered_yet"
        return "no_answer" if self.failing_for > 0 else "unsuitable"

    @property
    def failing_for(self) -> float:
        """Seconds since the start of the first of the consecutive failed probes."""
        if self._failing_since is not None:
            return time.monotonic() - self._failing_since
        return self._waiting if self._waiting > PROBE_TIMEOUT_SECONDS else 0.0

    def not_ready_reason(self) -> str | None:
        """Slow is not failed, and a short failure does not make a ready instance unready."""
        advice = self.find_cause() or f"check that it runs and that {self.name.upper()}_URL is right"
        if not self._has_answered:
            return f"{self.name} has not answered yet: {advice}"
        if self.error:
            return f"{self.name}: {self.error}"
        return (
            f"{self.name} has failed for {self.failing_for:.0f} s: {advice}" if self.failing_for > UNREADY_AFTER_SECONDS else None
        )

    @property
    def _waiting(self) -> float:
        return time.monotonic() - self._started_at if self._started_at is not None else 0.0

    def _update_warning(self) -> None:
        try:
            warning = self.find_warning()
        except Exception as error:  # if the dependency failed, the next probe reports it
            log.debug("could not look for warnings about %s: %s", self.name, error)
            return
        if warning and warning != self.warning:
            log.warning("%s: %s", self.name, warning)
        self.warning = warning

    def _on_answer(self) -> None:
        assert self._started_at is not None
        if self._failing_since is not None:
            log.info("%s answers again after %.1f s", self.name, self.failing_for)
        self.latency, self._failing_since, self._has_answered = self._waiting, None, True
        metrics.dependency_up.labels(self.name).set(1)
        self._task.succeed()
        metrics.dependency_latency.labels(self.name).set(self.latency)

    def _on_failure(self, error: Exception) -> None:
        if self._failing_since is None:
            self._failing_since = self._started_at
            cause = error.__cause__ or error
            log.warning("%s does not answer: %s: %s", self.name, type(cause).__name__, str(cause).partition("\n")[0])
        metrics.dependency_up.labels(self.name).set(0)


def latencies(probes: list[Probe]) -> dict[str, float | None]:
    """Return milliseconds by dependency; None for one that is not used or has not answered yet."""
    return {"redis_latency_ms": None, **{f"{probe.name}_latency_ms": probe.latency_ms for probe in probes}}
