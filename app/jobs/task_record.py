"""When each periodic task last succeeded, as metrics. Workers have no `/metrics`, so they record it in Redis for instances."""

import logging
import math
import time
from typing import Protocol

import redis

from app.core import metrics
from app.core.warnings import OperatorWarning

log = logging.getLogger(__name__)

KEY = "jobs:periodic-tasks"  # hash: name of the task -> interval and time of the last success, in seconds
FORGOTTEN_SECONDS = 7 * 86_400.0  # a task that no worker has run for so long no longer exists
TOLERANCE_SECONDS = 300.0


class TaskRecord(Protocol):
    def start(self, task: str, interval: float) -> None:
        """A process begins to run the task. If it never succeeds, its age counts from the first start."""

    def succeed(self, task: str, interval: float) -> None: ...


class LocalTaskRecord:
    """The record of an embedded instance: its own metrics."""

    def start(self, task: str, interval: float) -> None:
        _export(task, interval, time.time())

    def succeed(self, task: str, interval: float) -> None:
        _export(task, interval, time.time())


class SharedTaskRecord:
    """The record of a fleet: workers write it, and every instance exports it."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._is_failing = False
        self.last_success = -math.inf  # of any task, in seconds since 1970, as of the last call of `find_warning`

    def start(self, task: str, interval: float) -> None:
        try:
            self._client.hsetnx(KEY, task, _encode(interval))
        except redis.RedisError as error:
            log.warning("start of periodic task %s not recorded: %s", task, type(error).__name__)

    def succeed(self, task: str, interval: float) -> None:
        try:
            self._client.hset(KEY, task, _encode(interval))
        except redis.RedisError as error:
            # The first failure only: on a cluster the tasks may go on for long without the node of this key.
            level = logging.DEBUG if self._is_failing else logging.WARNING
            log.log(level, "success of periodic task %s not recorded: %s", task, type(error).__name__)
            self._is_failing = True
        else:
            self._is_failing = False

    def find_warning(self) -> OperatorWarning | None:
        """Export the record. Return which task has failed for long. Raises redis.RedisError."""
        warning, now = None, time.time()
        recorded: dict[bytes, bytes] = self._client.hgetall(KEY)  # type: ignore[assignment]
        for name, text in sorted(recorded.items()):
            task, (interval, succeeded_at) = name.decode(), map(float, text.split())
            self.last_success = max(self.last_success, succeeded_at)
            if now - succeeded_at > FORGOTTEN_SECONDS:
                continue
            _export(task, interval, succeeded_at)
            if now - succeeded_at > 3 * interval + TOLERANCE_SECONDS:
                warning = OperatorWarning(
                    "periodic_task_failing",
                    f"periodic task {task} no longer succeeds: check that a worker runs, and read its log",
                )
        return warning


def _encode(interval: float) -> str:
    return f"{interval:g} {time.time():.3f}"


def _export(task: str, interval: float, succeeded_at: float) -> None:
    metrics.task_last_success.labels("fleet", task).set(succeeded_at)
    metrics.task_interval.labels("fleet", task).set(interval)
