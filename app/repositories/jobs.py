"""The work behind an analysis: claimed, done by a child process, and its outcome written down once."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from app.config import Config
from app.database.engine import Database
from app.errors import Unavailable
from app.notifications.service import Notification, Notifications
from app.repositories import news, runner, store
from app.repositories.news import News
from app.repositories.runner import AnalysisFailed, Request, Stopped
from app.repositories.store import Analysis, Busy, Claim

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
RETRY_DELAYS = (timedelta(seconds=3), timedelta(seconds=10))
PROGRESS_SECONDS = 0.5  # between two words on progress
RENEWAL_SECONDS = 1.0  # which is also how soon somebody notices that it was cancelled
SETTLE_SECONDS = 10.0  # to write down an outcome with the notifications of thousands of followers
OUTAGE_SECONDS = 1.0  # between two tries to write down an outcome
SWEEP_SECONDS = 5.0
PURGE_SECONDS = 3600.0
BATCH = 100

Run = Callable[[Request, Callable[[int, str], None], Callable[[], bool]], dict[str, Any]]
Send = Callable[[int, float], None]  # analysis, delay in seconds


class Analyst:
    """Does analyses, of a worker process or of an embedded instance. Its methods may be called by several threads at once."""

    def __init__(
        self, config: Config, database: Database, notifications: Notifications, send: Send, run: Run = runner.run
    ) -> None:
        self._config = config
        self._database = database
        self._notifications = notifications
        self._send = send
        self._run = run
        self._stop = threading.Event()

    def stop(self) -> None:
        """What is being done is handed over to somebody else."""
        self._stop.set()

    def perform(self, analysis_id: int) -> None:
        """Whatever becomes of it stands in the row; a message for it may come any number of times."""
        try:
            claim = self._database.run(store.claim, analysis_id, secrets.token_hex(16))
        except Unavailable:
            self._send(analysis_id, SWEEP_SECONDS)
            return
        if isinstance(claim, Busy):
            self._send(analysis_id, claim.seconds)
        elif claim is not None:
            log.info("analysis %d of %s begins, attempt %d", analysis_id, claim.repository.name, claim.attempt)
            self._work(claim)

    def _work(self, claim: Claim) -> None:
        watch = _Watch(self._database, self._notifications, claim, self._stop)
        try:
            if claim.attempt > MAX_ATTEMPTS:
                raise AnalysisFailed(f"It was begun {MAX_ATTEMPTS} times, and something ended it each time.", permanent=True)
            request = Request.of(claim.repository.url, self._config)
            report = self._run(request, watch.report_progress, watch.keep_going)
        except Stopped:
            self._stopped(claim)
        except AnalysisFailed as failure:
            self._failed(claim, failure)
        else:
            self._settle(claim, _succeed, claim, report)

    def _stopped(self, claim: Claim) -> None:
        """Somebody wants this process to end, or has taken the claim away."""
        if self._stop.is_set():
            self._again(claim, attempts=claim.attempt - 1, delay=timedelta(0), step="Waiting")
            log.info("analysis %d is handed over", claim.analysis.id)

    def _failed(self, claim: Claim, failure: AnalysisFailed) -> None:
        if failure.permanent or claim.attempt >= MAX_ATTEMPTS:
            log.info("analysis %d failed: %s", claim.analysis.id, failure)
            self._settle(claim, _fail, claim, str(failure))
        else:
            log.info("analysis %d failed, and will be tried again: %s", claim.analysis.id, failure)
            delay = RETRY_DELAYS[claim.attempt - 1]
            self._again(claim, attempts=claim.attempt, delay=delay, step="Waiting to try again")

    def _again(self, claim: Claim, *, attempts: int, delay: timedelta, step: str) -> None:
        try:
            given_back = self._database.run(store.give_back, claim, attempts=attempts, delay=delay, step=step)
            followers = self._database.run(store.followers, claim.repository.id)
        except Unavailable:  # the lease runs out by itself
            return
        if given_back:
            state = replace(claim.analysis, status=store.QUEUED, progress=0, step=step).state
            self._notifications.announce_analysis(followers, state)
            self._send(claim.analysis.id, delay.total_seconds())

    def _settle(self, claim: Claim, end: Callable[..., list[Notification] | None], *arguments: Any) -> None:
        """As one transaction, which is tried until the database takes it or the claim is lost."""
        while True:
            try:
                told = self._database.run_within(SETTLE_SECONDS, end, self._notifications, *arguments)
                break
            except Unavailable:
                log.warning("the outcome of analysis %d has to wait for the database", claim.analysis.id)
                if self._stop.wait(OUTAGE_SECONDS):
                    return
        if told is None:
            log.info("analysis %d was taken away before its end", claim.analysis.id)
            return
        log.info("analysis %d of %s has ended", claim.analysis.id, claim.repository.name)
        _announce(self._database, self._notifications, claim.analysis.id)
        self._notifications.push(told)

    # Beside the jobs.

    def look_after(self) -> None:
        """Until it is stopped: finds what got lost, and what is due."""
        purged_at = 0.0
        while not self._stop.wait(SWEEP_SECONDS):
            try:
                self.sweep()
                if time.monotonic() - purged_at > PURGE_SECONDS:
                    purged_at = time.monotonic()
                    self._notifications.purge()
            except Unavailable:
                log.debug("the sweep has to wait for the database")
            except Exception:  # a thread that ended here would be missed by nobody until something got lost
                log.exception("the sweep failed, and begins again")

    def sweep(self) -> None:
        for analysis_id in self._database.run(store.forgotten, BATCH):
            log.info("analysis %d was forgotten, and is sent again", analysis_id)
            self._send(analysis_id, 0)
        for repository_id in self._database.run(store.due, BATCH):
            if started := self._database.run(_start_due, repository_id):
                log.info("analysis %d is the daily one of repository %d", started.id, repository_id)
                self._send(started.id, 0)

    def resume(self) -> None:
        """What an earlier process of an embedded instance left undone."""
        for analysis_id in self._database.run(store.release_all):
            self._send(analysis_id, 0)


class _Watch:
    """What connects a running analysis with its row: progress goes there, and the lease is kept."""

    def __init__(self, database: Database, notifications: Notifications, claim: Claim, stop: threading.Event) -> None:
        self._database = database
        self._notifications = notifications
        self._claim = claim
        self._stop = stop
        self._progress, self._step = 0, claim.analysis.step
        self._told: tuple[int, str] | None = None
        self._renewed_at = 0.0

    def report_progress(self, progress: int, step: str) -> None:
        self._progress, self._step = max(progress, self._progress), step

    def keep_going(self) -> bool:
        """To be called often. False if the work is no longer wanted here."""
        if self._stop.is_set():
            return False
        since = time.monotonic() - self._renewed_at
        is_news = (self._progress, self._step) != self._told
        if since < PROGRESS_SECONDS or (since < RENEWAL_SECONDS and not is_news):
            return True
        return self._renew(is_news)

    def _renew(self, is_news: bool) -> bool:
        now = self._progress, self._step
        try:
            followers = self._database.run(_renew, self._claim, *now)
        except Unavailable:  # whoever else reaches the database may take it over; if nobody does, no work is lost
            return True
        if followers is None:
            return False
        self._renewed_at, self._told = time.monotonic(), now
        if is_news:
            state = replace(self._claim.analysis, progress=now[0], step=now[1]).state
            self._notifications.announce_analysis(followers, state)
        return True


def _renew(connection: Connection, claim: Claim, progress: int, step: str) -> list[int] | None:
    """The followers, or None if the lease is lost."""
    return store.followers(connection, claim.repository.id) if store.renew(connection, claim, progress, step) else None


def _start_due(connection: Connection, repository_id: int) -> Analysis | None:
    """The new analysis, of a repository that is due and that somebody follows."""
    store.lock(connection, repository_id)
    if not store.take_due(connection, repository_id) or store.remove_unfollowed(connection, repository_id):
        return None
    analysis, new = store.start(connection, repository_id)
    return analysis if new else None


def _succeed(
    connection: Connection, notifications: Notifications, claim: Claim, report: dict[str, Any]
) -> list[Notification] | None:
    before = store.last_report(connection, claim.repository.id)
    if not store.succeed(connection, claim, report):
        return None
    return _tell(connection, notifications, claim, news.of_success(claim.repository, claim.analysis, report, before))


def _fail(connection: Connection, notifications: Notifications, claim: Claim, error: str) -> list[Notification] | None:
    if not store.fail(connection, claim, error):
        return None
    return _tell(connection, notifications, claim, news.of_failure(claim.repository, claim.analysis, error))


def _tell(connection: Connection, notifications: Notifications, claim: Claim, items: Iterable[News]) -> list[Notification]:
    followers = store.followers(connection, claim.repository.id)
    return [told for item in items for told in notifications.add(connection, followers, item.type, item.title, item.data)]


def _announce(database: Database, notifications: Notifications, analysis_id: int) -> None:
    def read(connection: Connection) -> tuple[Analysis | None, list[int]]:
        analysis = store.one(connection, analysis_id)
        return analysis, store.followers(connection, analysis.repository_id) if analysis else []

    try:
        analysis, followers = database.run(read)
    except Unavailable:  # the notification tells as well
        return
    if analysis:
        notifications.announce_analysis(followers, analysis.state)
