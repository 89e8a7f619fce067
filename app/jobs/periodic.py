"""Periodic tasks of a process that runs jobs.

A run of a task is limited. A task that returns True has more to do and continues soon.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.core.errors import Unavailable, cause_of
from app.jobs.task_record import LocalTaskRecord, TaskRecord

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
HOUR_SECONDS = 3600.0
RETRY_SECONDS = 60.0  # until an hourly task that failed runs again

Task = Callable[[], bool | None]


@dataclass
class _Scheduled:
    name: str
    run: Task
    interval: float  # seconds
    next_at: float = -math.inf


class PeriodicTasks:
    """Runs `frequent` tasks every 5 seconds, and `hourly` tasks at the start and then every hour. Both are tasks by name."""

    def __init__(self, frequent: Mapping[str, Task], hourly: Mapping[str, Task], record: TaskRecord | None = None) -> None:
        self._tasks = [_Scheduled(name, task, INTERVAL_SECONDS) for name, task in frequent.items()]
        self._tasks += [_Scheduled(name, task, HOUR_SECONDS) for name, task in hourly.items()]
        self._record = record or LocalTaskRecord()
        self._stop = threading.Event()

    def run(self) -> None:
        """Run the tasks until `stop` is called."""
        for task in self._tasks:
            self._record.start(task.name, task.interval)
        while not self._stop.wait(INTERVAL_SECONDS):
            for task in self._tasks:
                if time.monotonic() >= task.next_at:
                    task.next_at = time.monotonic() + self._run(task)

    def stop(self) -> None:
        self._stop.set()

    def _run(self, task: _Scheduled) -> float:
        """Run a task, and return for how long it then rests, besides the pause after each round."""
        rest = task.interval - INTERVAL_SECONDS
        try:
            has_more = task.run()
        except Unavailable as error:
            log.warning("periodic task %s failed and will run again: %s", task.name, cause_of(error) or error)
        except Exception:  # the thread has to survive, or lost jobs would never be enqueued again
            log.exception("periodic task %s failed and will run again", task.name)
        else:
            self._record.succeed(task.name, task.interval)
            return 0.0 if has_more else rest
        return min(RETRY_SECONDS, rest)
