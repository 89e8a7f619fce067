"""The membership of a worker process in the fleet: its heartbeat in a thread, and the record of its stop."""

import logging
import threading
import time
from typing import Any

from app.core import metrics
from app.core.errors import Unavailable, cause_of
from app.core.instance import Instance
from app.core.version import VERSION
from app.fleet.worker_store import RUNNING, STOPPING, WorkerRegistry
from app.jobs.statistics import JobStatistics
from app.server.stop_report import CLEAN, StopReport

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
LEAVE_TIMEOUT_SECONDS = 1.0  # for a heartbeat that Redis has not answered yet


class WorkerMembership:
    def __init__(self, registry: WorkerRegistry, instance: Instance, statistics: JobStatistics, max_jobs: int) -> None:
        self._registry = registry
        self._instance = instance
        self._statistics = statistics
        self._max_jobs = max_jobs
        self._status = RUNNING
        self._is_failing = False
        self._has_left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_running(self) -> bool:
        return self._thread.is_alive()

    def begin_stop(self) -> None:
        """Report from the next heartbeat on that this worker is stopping."""
        self._status = STOPPING

    def leave(self, report: StopReport, reason: str) -> None:
        """Send no heartbeat any more, and log and record the stop."""
        self._has_left.set()
        self._thread.join(LEAVE_TIMEOUT_SECONDS)
        jobs = f"jobs since the start: {self._statistics.finished} finished, {self._statistics.released} released"
        summary = f"{report.summary}; {jobs}; {reason}"
        log.log(logging.INFO if report.kind == CLEAN else logging.WARNING, "stopped: %s", summary)
        own = {"instance_id": self._instance.instance_id, "nonce": self._instance.nonce, "at": int(time.time() * 1000)}
        try:
            self.beat()  # with the durations of the last jobs
            self._registry.leave(self._instance.nonce, {**own, **report.describe(), "summary": summary})
        except Unavailable as error:
            log.warning("stop not recorded, the fleet will list a crash: %s", cause_of(error) or error)

    def beat(self) -> None:
        """Send a heartbeat. Raises Unavailable."""
        durations = metrics.job_seconds.take()
        try:
            self._registry.heartbeat(self._describe(), durations)
        except Unavailable:
            metrics.job_seconds.add(durations)
            raise

    def _run(self) -> None:
        while not self._has_left.is_set():
            try:
                self.beat()
            except Unavailable as error:
                level = logging.DEBUG if self._is_failing else logging.WARNING
                log.log(level, "heartbeat not sent: %s", cause_of(error) or error)
                self._is_failing = True
            else:
                self._is_failing = False
            self._has_left.wait(HEARTBEAT_SECONDS)

    def _describe(self) -> dict[str, Any]:
        return {
            **self._instance.metadata(),
            "nonce": self._instance.nonce,
            "status": self._status,
            "version": VERSION,
            "running_jobs": self._statistics.running,
            "max_jobs": self._max_jobs,
            "finished_jobs": self._statistics.finished,
        }
