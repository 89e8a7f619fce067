"""The analysis job: a child process analyses the repository while this process publishes its progress and renews its lease."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from app.core.config import Config
from app.core.errors import Unavailable
from app.database.engine import Database
from app.jobs.failures import LeaseLost
from app.jobs.leases import NotYet
from app.jobs.runner import PROGRESS_INTERVAL_SECONDS, RENEWAL_INTERVAL_SECONDS, JobRunner, Send
from app.jobs.statistics import JobStatistics
from app.notifications.service import Notification, Notifications
from app.repositories import store
from app.repositories.analysis_process import AnalysisRequest, run_analysis
from app.repositories.notifications import NotificationDraft, Told, drafts_of_failure, drafts_of_success
from app.repositories.store import Analysis, AnalysisLease, Audience

log = logging.getLogger(__name__)

MAX_STARTED = 100  # daily analyses in one run

Analyse = Callable[[AnalysisRequest, Callable[[int, str], None], Callable[[], bool]], dict[str, Any]]


class AudienceChanged(Unavailable):
    """A user began or stopped to follow the repository in the meantime. The transaction is retried."""

    def __init__(self) -> None:
        super().__init__("The followers of the repository have changed.")


class AnalysisRunner(JobRunner[AnalysisLease]):
    kind = "analysis"

    def __init__(
        self,
        config: Config,
        database: Database,
        notifications: Notifications,
        send: Send,
        analyse: Analyse = run_analysis,
        statistics: JobStatistics | None = None,
    ) -> None:
        super().__init__(database, store.leases, send, notifications.push, statistics)
        self._notifications = notifications
        self._config = config
        self._analyse = analyse

    def claim(self, connection: Connection, job_id: int, token: str) -> AnalysisLease | NotYet | None:
        return store.claim(connection, job_id, token)

    def work(self, lease: AnalysisLease) -> dict[str, Any]:
        reporter = _ProgressReporter(self._database, self._notifications, lease, self._stop)
        request = AnalysisRequest.create(lease.repository.url, self._config)
        return self._analyse(request, reporter.report_progress, reporter.heartbeat)

    def succeed(self, connection: Connection, lease: AnalysisLease, outcome: dict[str, Any]) -> list[Notification]:
        previous = store.last_report(connection, lease.repository.id)
        told, audience = self._told_and_audience(connection, lease)
        drafts, told = drafts_of_success(lease.repository, lease.analysis, outcome, previous, told, audience)
        added = self._notify(connection, lease, drafts, told, audience)
        if not store.succeed(connection, lease, outcome):
            raise LeaseLost
        return added

    def fail(self, connection: Connection, lease: AnalysisLease, error: str) -> list[Notification]:
        told, audience = self._told_and_audience(connection, lease)
        drafts, told = drafts_of_failure(lease.repository, lease.analysis, error, told, audience)
        added = self._notify(connection, lease, drafts, told, audience)
        if not store.fail(connection, lease, error):
            raise LeaseLost
        return added

    def release(self, connection: Connection, lease: AnalysisLease, *, attempts: int, delay: timedelta) -> bool:
        step = "Waiting for a retry" if delay else "Waiting"
        return store.leases.release(connection, lease, attempts=attempts, delay=delay, step=step)

    def publish_state(self, job_id: int) -> None:
        analysis, followers = self._database.run(_get_with_followers, job_id)
        if analysis:
            self._notifications.publish_analysis(followers, analysis.state)

    def start_due(self) -> None:
        """Start the daily analyses that are due, and delete repositories that nobody follows."""
        for repository_id in self._database.run(store.list_due, MAX_STARTED):
            if analysis := self._database.run(_start_if_followed, repository_id):
                log.info("analysis %d enqueued: daily analysis of repository %d", analysis.id, repository_id)
                self._send(analysis.id, 0)

    def _told_and_audience(self, connection: Connection, lease: AnalysisLease) -> tuple[Told, Audience]:
        told = Told.from_json(store.told(connection, lease.repository.id))
        return told, store.audience(connection, lease.analysis.id, lease.repository.id)

    def _notify(
        self, connection: Connection, lease: AnalysisLease, drafts: list[NotificationDraft], told: Told, audience: Audience
    ) -> list[Notification]:
        """Store the notifications for those recipients who want them, and what they now know."""
        repository_id = lease.repository.id
        recipients = frozenset[int]().union(*(draft.recipients for draft in drafts))
        subscriptions = self._notifications.default_subscriptions(connection, recipients) | audience.subscriptions
        self._notifications.lock(connection, recipients)
        added = [
            notification
            for draft in drafts
            for notification in self._notifications.add(
                connection,
                [user_id for user_id in draft.recipients if subscriptions[user_id].get(draft.type, True)],
                draft.type,
                draft.title,
                draft.data,
            )
        ]
        store.lock_repository(connection, repository_id)
        if store.audience(connection, lease.analysis.id, repository_id) != audience:
            raise AudienceChanged
        store.save_told(connection, repository_id, told.to_json())
        return added


class _ProgressReporter:
    """Writes the progress of a running analysis to its row, publishes it, and renews the lease."""

    def __init__(self, database: Database, notifications: Notifications, lease: AnalysisLease, stop: threading.Event) -> None:
        self._database = database
        self._notifications = notifications
        self._lease = lease
        self._stop = stop
        self._progress, self._step = 0, lease.analysis.step
        self._published: tuple[int, str] | None = None
        self._renewed_at = 0.0

    def report_progress(self, progress: int, step: str) -> None:
        self._progress, self._step = max(progress, self._progress), step

    def heartbeat(self) -> bool:
        """Renew the lease if it is time to. Return False if this process stops or the lease is lost. To be called often."""
        if self._stop.is_set():
            return False
        elapsed = time.monotonic() - self._renewed_at
        has_changed = (self._progress, self._step) != self._published
        if elapsed < PROGRESS_INTERVAL_SECONDS or (elapsed < RENEWAL_INTERVAL_SECONDS and not has_changed):
            return True
        return self._renew(has_changed)

    def _renew(self, has_changed: bool) -> bool:
        progress, step = self._progress, self._step
        try:
            followers = self._database.run(_renew, self._lease, progress, step)
        except Unavailable:  # go on: the work is lost only if another worker reaches the database and takes over
            return True
        if followers is None:
            return False
        self._renewed_at, self._published = time.monotonic(), (progress, step)
        if has_changed:
            state = replace(self._lease.analysis, progress=progress, step=step).state
            self._notifications.publish_analysis(followers, state)
        return True


def _renew(connection: Connection, lease: AnalysisLease, progress: int, step: str) -> list[int] | None:
    """Renew the lease. Return the followers of the repository, or None if the lease is lost."""
    is_renewed = store.leases.renew(connection, lease, progress=progress, step=step)
    return store.followers(connection, lease.repository.id) if is_renewed else None


def _start_if_followed(connection: Connection, repository_id: int) -> Analysis | None:
    """Start the daily analysis of a repository. Return None if another process has, or if nobody follows the repository."""
    store.lock_repository(connection, repository_id)
    if not store.claim_due(connection, repository_id) or store.delete_if_unfollowed(connection, repository_id):
        return None
    analysis, is_new = store.start_analysis(connection, repository_id)
    return analysis if is_new else None


def _get_with_followers(connection: Connection, analysis_id: int) -> tuple[Analysis | None, list[int]]:
    analysis = store.get_analysis(connection, analysis_id)
    return analysis, store.followers(connection, analysis.repository_id) if analysis else []
