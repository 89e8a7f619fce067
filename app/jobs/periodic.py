"""Periodic tasks of a process that runs jobs."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from app.core.errors import Unavailable

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
HOUR_SECONDS = 3600.0

Task = Callable[[], object]


class PeriodicTasks:
    """Runs `frequent` tasks every 5 seconds, and `hourly` tasks at the start and then every hour."""

    def __init__(self, frequent: Sequence[Task], hourly: Sequence[Task]) -> None:
        self._frequent = frequent
        self._hourly = hourly
        self._stop = threading.Event()

    def run(self) -> None:
        """Run the tasks until `stop` is called."""
        last_hourly = -math.inf
        while not self._stop.wait(INTERVAL_SECONDS):
            self._run_all(self._frequent)
            if time.monotonic() - last_hourly > HOUR_SECONDS:
                last_hourly = time.monotonic()
                self._run_all(self._hourly)

    def stop(self) -> None:
        self._stop.set()

    def _run_all(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            name = getattr(task, "__qualname__", type(task).__name__)
            try:
                task()
            except Unavailable:
                log.debug("periodic task %s skipped: the database is unavailable", name)
            except Exception:  # the thread has to survive, or lost jobs would never be enqueued again
                log.exception("periodic task %s failed and will run again", name)
