"""The periodic tasks of an instance: when each last succeeded, as a metric, and a warning when it begins to fail."""

import logging
import time

from app.core import metrics
from app.core.errors import cause_of

log = logging.getLogger(__name__)


class InstanceTask:
    """One task. As long as it has never succeeded, its age counts from the start of the process."""

    def __init__(self, name: str, interval_seconds: float) -> None:
        self._name = name
        self._is_failing = False
        self._last_success = metrics.task_last_success.labels("instance", name)
        self._last_success.set(time.time())
        self._interval = metrics.task_interval.labels("instance", name)
        self._interval.set(interval_seconds)

    def succeed(self) -> None:
        self._is_failing = False
        self._last_success.set(time.time())

    def set_interval(self, seconds: float) -> None:
        self._interval.set(seconds)

    def fail(self, error: Exception) -> None:
        """Log the first failure: a task that runs every second would fill the log in an outage."""
        level = logging.DEBUG if self._is_failing else logging.WARNING
        log.log(level, "background task %s failed and will run again: %s", self._name, cause_of(error) or error)
        self._is_failing = True
