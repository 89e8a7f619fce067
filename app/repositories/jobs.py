"""The work behind an analysis: done by a child process, while its progress is told and its claim kept."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from app.core.config import Config
from app.core.errors import Unavailable
from app.database.engine import Database
from app.jobs.leases import AlreadyLeased
from app.jobs.runner import BATCH_SIZE, PROGRESS_INTERVAL_SECONDS, RENEWAL_INTERVAL_SECONDS, JobRunner, Send
from app.notifications.service import Notification, Notifications
from app.repositories import news, runner, store
from app.repositories.news import News
from app.repositories.runner import Request
from app.repositories.store import Analysis, AnalysisLease

log = logging.getLogger(__name__)

Run = Callable[[Request, Callable[[int, str], None], Callable[[], bool]], dict[str, Any]]


class Analyst(JobRunner[AnalysisLease]):
    kind = "analysis"

    def __init__(
        self, config: Config, database: Database, notifications: Notifications, send: Send, run: Run = runner.run
    ) -> None:
        super().__init__(database, store.leases, send, notifications.push)
        self._notifications = notifications
        self._config = config
        self._run = run

    def claim(self, connection: Connection, job_id: int, token: str) -> AnalysisLease | AlreadyLeased | None:
        return store.claim(connection, job_id, token)

    def work(self, lease: AnalysisLease) -> dict[str, Any]:
        watch = _Watch(self._database, self._notifications, lease, self._stop)
        request = Request.of(lease.repository.url, self._config)
        return self._run(request, watch.report_progress, watch.keep_going)

    def succeed(self, connection: Connection, lease: AnalysisLease, outcome: dict[str, Any]) -> list[Notification] | None:
        before = store.last_report(connection, lease.repository.id)
        if not store.succeed(connection, lease, outcome):
            return None
        return self._tell(connection, lease, news.of_success(lease.repository, lease.analysis, outcome, before))

    def fail(self, connection: Connection, lease: AnalysisLease, error: str) -> list[Notification] | None:
        if not store.fail(connection, lease, error):
            return None
        return self._tell(connection, lease, news.of_failure(lease.repository, lease.analysis, error))

    def release(self, connection: Connection, lease: AnalysisLease, *, attempts: int, delay: timedelta) -> bool:
        step = "Waiting to try again" if delay else "Waiting"
        return store.leases.release(connection, lease, attempts=attempts, delay=delay, step=step)

    def publish_state(self, job_id: int) -> None:
        analysis, followers = self._database.run(_with_followers, job_id)
        if analysis:
            self._notifications.publish_analysis(followers, analysis.state)

    def start_due(self) -> None:
        for repository_id in self._database.run(store.due, BATCH_SIZE):
            if started := self._database.run(_start_due, repository_id):
                log.info("analysis %d is the daily analysis of repository %d", started.id, repository_id)
                self._send(started.id, 0)

    def _tell(self, connection: Connection, lease: AnalysisLease, items: Iterable[News]) -> list[Notification]:
        followers, add = store.followers(connection, lease.repository.id), self._notifications.add
        return [told for item in items for told in add(connection, followers, item.type, item.title, item.data)]


class _Watch:
    """What connects a running analysis with its row: progress goes there, and the lease is kept."""

    def __init__(self, database: Database, notifications: Notifications, lease: AnalysisLease, stop: threading.Event) -> None:
        self._database = database
        self._notifications = notifications
        self._lease = lease
        self._stop = stop
        self._progress, self._step = 0, lease.analysis.step
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
        if since < PROGRESS_INTERVAL_SECONDS or (since < RENEWAL_INTERVAL_SECONDS and not is_news):
            return True
        return self._renew(is_news)

    def _renew(self, is_news: bool) -> bool:
        now = self._progress, self._step
        try:
            followers = self._database.run(_renew, self._lease, *now)
        except Unavailable:  # whoever else reaches the database may take it over; if nobody does, no work is lost
            return True
        if followers is None:
            return False
        self._renewed_at, self._told = time.monotonic(), now
        if is_news:
            state = replace(self._lease.analysis, progress=now[0], step=now[1]).state
            self._notifications.publish_analysis(followers, state)
        return True


def _renew(connection: Connection, lease: AnalysisLease, progress: int, step: str) -> list[int] | None:
    """The followers, or None if the lease is lost."""
    held = store.leases.renew(connection, lease, progress=progress, step=step)
    return store.followers(connection, lease.repository.id) if held else None


def _start_due(connection: Connection, repository_id: int) -> Analysis | None:
    """The new analysis, of a repository that is due and that somebody follows."""
    store.lock(connection, repository_id)
    if not store.take_due(connection, repository_id) or store.remove_unfollowed(connection, repository_id):
        return None
    analysis, new = store.start(connection, repository_id)
    return analysis if new else None


def _with_followers(connection: Connection, analysis_id: int) -> tuple[Analysis | None, list[int]]:
    analysis = store.one(connection, analysis_id)
    return analysis, store.followers(connection, analysis.repository_id) if analysis else []
