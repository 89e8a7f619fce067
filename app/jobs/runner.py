"""The life cycle that all kinds of jobs share: claim, work, save the outcome exactly once, release or retry."""

import logging
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from app.core.errors import Unavailable, cause_of
from app.core.spans import continued
from app.database.engine import Database
from app.jobs.failures import JobFailed, JobStopped, LeaseLost
from app.jobs.leases import Lease, Leases, NotYet
from app.jobs.periodic import INTERVAL_SECONDS
from app.jobs.statistics import FAILED, LOST, RELEASED, RETRIED, SUCCEEDED, JobStatistics

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
RETRY_DELAYS = (timedelta(seconds=3), timedelta(seconds=10))
PROGRESS_INTERVAL_SECONDS = 0.5
RENEWAL_INTERVAL_SECONDS = 1.0  # also the time within which a worker notices that it has lost its lease
SAVE_TIMEOUT_SECONDS = 10.0  # an outcome can come with the notifications of thousands of users
DATABASE_RETRY_SECONDS = 1.0
MAX_REQUEUED = 20  # jobs per sweep that are enqueued again

Send = Callable[[int, float], None]  # job ID, delay in seconds
PushNotifications = Callable[[list[Any]], None]
LeaseType = TypeVar("LeaseType", bound=Lease)


class JobRunner(ABC, Generic[LeaseType]):
    """Runs the jobs of one kind, in a worker process or an embedded instance. Several threads may call `run` at once."""

    kind: str

    def __init__(
        self, database: Database, leases: Leases, send: Send, push: PushNotifications, statistics: JobStatistics | None = None
    ) -> None:
        """The runners of a worker pool share `statistics`."""
        self._database = database
        self._leases = leases
        self._send = send
        self._push = push
        self._stop = threading.Event()
        self._statistics = statistics or JobStatistics()

    @abstractmethod
    def claim(self, connection: Connection, job_id: int, token: str) -> LeaseType | NotYet | None:
        """Lease the next job. Return None if none waits and the one of the message has finished."""

    @abstractmethod
    def work(self, lease: LeaseType) -> Any:
        """Do the job and return its outcome. Raises JobFailed, and JobStopped if this process stops or the lease is lost."""

    @abstractmethod
    def succeed(self, connection: Connection, lease: LeaseType, outcome: Any) -> list[Any]:
        """Save the notifications and then the outcome, in the order of locks. Return the notifications. Raises LeaseLost."""

    @abstractmethod
    def fail(self, connection: Connection, lease: LeaseType, error: str) -> list[Any]:
        """Save the notifications and then the failure, in the order of locks. Return the notifications. Raises LeaseLost."""

    @abstractmethod
    def release(self, connection: Connection, lease: LeaseType, *, attempts: int, delay: timedelta) -> bool:
        """Put the job back into the queue. Return False if the lease is lost."""

    @abstractmethod
    def publish_state(self, job_id: int) -> None:
        """Send the state of the job to the sockets of its users. Raises Unavailable."""

    def stop(self) -> None:
        """Make all running jobs stop and release them for another worker."""
        self._stop.set()

    def run(self, job_id: int) -> None:
        """Run the job that is next, if any: the message of `job_id` only wakes this worker up, so duplicates are harmless."""
        try:
            lease = self._database.run(self.claim, job_id, secrets.token_hex(16))
        except Unavailable:
            self._send(job_id, INTERVAL_SECONDS)
            return
        if isinstance(lease, NotYet):
            self._send(job_id, lease.seconds)
        elif lease is not None:
            with (
                continued(f"{self.kind} job", lease.traceparent, {"job.id": lease.job_id, "job.attempt": lease.attempt}),
                self._statistics.measure(self.kind) as attempt,
            ):
                log.info("%s %d started, attempt %d", self.kind, lease.job_id, lease.attempt)
                attempt.outcome = self._execute(lease)

    def _execute(self, lease: LeaseType) -> str:
        """Run the job and return the outcome of this attempt."""
        try:
            if lease.attempt > MAX_ATTEMPTS:
                raise JobFailed(f"It was started {MAX_ATTEMPTS} times and interrupted each time.", permanent=True)
            outcome = self.work(lease)
        except JobStopped:
            return self._on_stopped(lease)
        except JobFailed as failure:
            return self._on_failed(lease, failure)
        return SUCCEEDED if self._save_outcome(lease, self.succeed, outcome) else LOST

    def _on_stopped(self, lease: LeaseType) -> str:
        if not self._stop.is_set():
            log.info("%s %d lost its lease: cancelled, or taken over by another worker", self.kind, lease.job_id)
        elif self._release(lease, attempts=lease.attempt - 1, delay=timedelta(0)):
            log.info("%s %d released for another worker", self.kind, lease.job_id)
            return RELEASED
        return LOST

    def _on_failed(self, lease: LeaseType, failure: JobFailed) -> str:
        if failure.permanent or lease.attempt >= MAX_ATTEMPTS:
            log.info("%s %d failed: %s", self.kind, lease.job_id, failure)
            return FAILED if self._save_outcome(lease, self.fail, str(failure)) else LOST
        delay = RETRY_DELAYS[lease.attempt - 1]
        log.info("%s %d failed, retry in %d s: %s", self.kind, lease.job_id, delay.total_seconds(), failure)
        return RETRIED if self._release(lease, attempts=lease.attempt, delay=delay) else LOST

    def _release(self, lease: LeaseType, *, attempts: int, delay: timedelta) -> bool:
        try:
            is_released = self._database.run(self.release, lease, attempts=attempts, delay=delay)
        except Unavailable as error:
            log.warning("%s %d not released, its lease will expire: %s", self.kind, lease.job_id, cause_of(error) or error)
            return False
        if is_released:
            self._publish_state(lease)
            self._send(lease.job_id, delay.total_seconds())
        return is_released

    def _save_outcome(self, lease: LeaseType, save: Callable[..., list[Any]], outcome: Any) -> bool:
        """Save the outcome in one transaction, retried until the database accepts it. Return whether it was saved."""
        while True:
            try:
                notifications = self._database.run_within(SAVE_TIMEOUT_SECONDS, save, lease, outcome)
                break
            except LeaseLost:
                log.info("%s %d lost its lease before its outcome was saved", self.kind, lease.job_id)
                return False
            except Unavailable as error:
                log.warning("outcome of %s %d not saved yet: %s", self.kind, lease.job_id, cause_of(error) or error)
                if self._stop.wait(DATABASE_RETRY_SECONDS):
                    return False
        log.info("outcome of %s %d saved", self.kind, lease.job_id)
        self._publish_state(lease)
        self._push(notifications)
        return True

    def _publish_state(self, lease: LeaseType) -> None:
        try:
            self.publish_state(lease.job_id)
        except Unavailable as error:
            log.debug("state of %s %d not published: %s", self.kind, lease.job_id, error)

    def requeue_lost(self) -> None:
        for job_id in self._database.run(self._leases.take_lost, MAX_REQUEUED):
            log.info("%s %d re-enqueued: not picked up in time, or its lease expired", self.kind, job_id)
            self._send(job_id, 0)

    def requeue_all(self) -> None:
        """Enqueue the jobs that an earlier process of an embedded instance has left unfinished."""
        for job_id in self._database.run(self._leases.release_all):
            self._send(job_id, 0)
