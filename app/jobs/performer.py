"""What all jobs have in common: claimed, done, and their outcome written down once, whatever happens in between."""

from __future__ import annotations

import logging
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from app.core.errors import Unavailable
from app.database.engine import Database
from app.jobs.failures import JobFailed, Stopped
from app.jobs.leases import Busy, Held, Leases
from app.jobs.sweep import SWEEP_SECONDS
from app.notifications.service import Notification, Notifications

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
RETRY_DELAYS = (timedelta(seconds=3), timedelta(seconds=10))
PROGRESS_SECONDS = 0.5  # between two words on progress
RENEWAL_SECONDS = 1.0  # which is also how soon somebody notices that a claim was taken away
SETTLE_SECONDS = 10.0  # to write down an outcome with the notifications of thousands of users
OUTAGE_SECONDS = 1.0  # between two tries to write something down
BATCH = 100

Send = Callable[[int, float], None]  # job, delay in seconds
Claim = TypeVar("Claim", bound=Held)


class Performer(ABC, Generic[Claim]):
    """Does one kind of job, of a worker process or of an embedded instance. Its methods may be called by several threads."""

    noun: str

    def __init__(self, database: Database, notifications: Notifications, leases: Leases, send: Send) -> None:
        self._database = database
        self._notifications = notifications
        self._leases = leases
        self._send = send
        self._stop = threading.Event()

    # What a kind of job consists of.

    @abstractmethod
    def claim(self, connection: Connection, job_id: int, lease: str) -> Claim | Busy | None:
        """None if it has ended."""

    @abstractmethod
    def work(self, claim: Claim) -> Any:
        """The outcome. Raises JobFailed; and Stopped, if this process is to end or the claim is lost."""

    @abstractmethod
    def succeed(self, connection: Connection, claim: Claim, outcome: Any) -> list[Notification] | None:
        """What is told of it, or None if the claim was lost before."""

    @abstractmethod
    def fail(self, connection: Connection, claim: Claim, error: str) -> list[Notification] | None:
        """What is told of it, or None if the claim was lost before."""

    @abstractmethod
    def give_back(self, connection: Connection, claim: Claim, *, attempts: int, delay: timedelta) -> bool:
        """False if the claim was lost before."""

    @abstractmethod
    def announce(self, job_id: int) -> None:
        """Its state, to the sockets of whom it concerns. Raises Unavailable."""

    # What becomes of it.

    def stop(self) -> None:
        """What is being done is handed over to somebody else."""
        self._stop.set()

    def perform(self, job_id: int) -> None:
        """Whatever becomes of it stands in the row; a message for it may come any number of times."""
        try:
            claim = self._database.run(self.claim, job_id, secrets.token_hex(16))
        except Unavailable:
            self._send(job_id, SWEEP_SECONDS)
            return
        if isinstance(claim, Busy):
            self._send(job_id, claim.seconds)
        elif claim is not None:
            log.info("%s %d begins, attempt %d", self.noun, job_id, claim.attempt)
            self._work(claim)

    def _work(self, claim: Claim) -> None:
        try:
            if claim.attempt > MAX_ATTEMPTS:
                raise JobFailed(f"It was begun {MAX_ATTEMPTS} times, and something ended it each time.", permanent=True)
            outcome = self.work(claim)
        except Stopped:
            self._stopped(claim)
        except JobFailed as failure:
            self._failed(claim, failure)
        else:
            self._settle(claim, self.succeed, outcome)

    def _stopped(self, claim: Claim) -> None:
        """Somebody wants this process to end, or has taken the claim away."""
        if self._stop.is_set():
            self._again(claim, attempts=claim.attempt - 1, delay=timedelta(0))
            log.info("%s %d is handed over", self.noun, claim.id)

    def _failed(self, claim: Claim, failure: JobFailed) -> None:
        if failure.permanent or claim.attempt >= MAX_ATTEMPTS:
            log.info("%s %d failed: %s", self.noun, claim.id, failure)
            self._settle(claim, self.fail, str(failure))
        else:
            log.info("%s %d failed, and will be tried again: %s", self.noun, claim.id, failure)
            self._again(claim, attempts=claim.attempt, delay=RETRY_DELAYS[claim.attempt - 1])

    def _again(self, claim: Claim, *, attempts: int, delay: timedelta) -> None:
        try:
            given_back = self._database.run(self.give_back, claim, attempts=attempts, delay=delay)
        except Unavailable:  # the lease runs out by itself
            return
        if given_back:
            self._announce(claim)
            self._send(claim.id, delay.total_seconds())

    def _settle(self, claim: Claim, end: Callable[..., list[Notification] | None], outcome: Any) -> None:
        """As one transaction, which is tried until the database takes it or the claim is lost."""
        while True:
            try:
                told = self._database.run_within(SETTLE_SECONDS, end, claim, outcome)
                break
            except Unavailable:
                log.warning("the outcome of %s %d has to wait for the database", self.noun, claim.id)
                if self._stop.wait(OUTAGE_SECONDS):
                    return
        if told is None:
            log.info("%s %d was taken away before its end", self.noun, claim.id)
            return
        log.info("%s %d has ended", self.noun, claim.id)
        self._announce(claim)
        self._notifications.push(told)

    def _announce(self, claim: Claim) -> None:
        try:
            self.announce(claim.id)
        except Unavailable:
            log.debug("the state of %s %d is not told; the next one makes up for it", self.noun, claim.id)

    # Beside the jobs.

    def sweep(self) -> None:
        for job_id in self._database.run(self._leases.forgotten, BATCH):
            log.info("%s %d was forgotten, and is sent again", self.noun, job_id)
            self._send(job_id, 0)

    def resume(self) -> None:
        """What an earlier process of an embedded instance left undone."""
        for job_id in self._database.run(self._leases.release_all):
            self._send(job_id, 0)
