from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from sqlalchemy import select, update

from app.core import config
from app.database.engine import Database, DatabaseUnavailable
from app.database.schema import analyses, repositories
from app.jobs import leases
from app.jobs import runner as job_runner
from app.jobs.broker import JobQueues, redis_broker
from app.jobs.failures import JobStopped
from app.jobs.leases import LEASE_DURATION, PICKUP_TIMEOUT
from app.jobs.runner import MAX_ATTEMPTS
from app.notifications.service import Notifications
from app.repositories import jobs, store
from app.repositories.analysis_process import AnalysisFailed, AnalysisRequest
from app.repositories.jobs import AnalysisRunner
from app.repositories.store import Analysis, Repository
from harness.scale import count
from tests.unit.repositories.conftest import URL, Published, claimed, let_time_pass, new_repository, new_user, report, started

Heartbeat = Callable[[], bool]
Progress = Callable[[int, str], None]


class FakeProcess:
    """Replaces the child process; `does` is its behaviour."""

    def __init__(self) -> None:
        self.requests: list[AnalysisRequest] = []
        self.does: Callable[[Progress, Heartbeat], dict[str, Any]] = lambda *_: report()

    def __call__(self, request: AnalysisRequest, progress: Progress, heartbeat: Heartbeat) -> dict[str, Any]:
        self.requests.append(request)
        return self.does(progress, heartbeat)


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess()


@pytest.fixture
def sent() -> list[tuple[int, float]]:
    return []


@pytest.fixture
def make_runner(
    both: Database, notifications: Notifications, embedded: dict[str, str], sent: list[tuple[int, float]], process: FakeProcess
) -> Callable[[], AnalysisRunner]:
    settings = config.load(embedded)
    return lambda: AnalysisRunner(settings, both, notifications, lambda *message: sent.append(message), process)


@pytest.fixture
def runner(make_runner: Callable[[], AnalysisRunner]) -> AnalysisRunner:
    return make_runner()


@pytest.fixture
def ada(both: Database) -> int:
    return new_user(both)


@pytest.fixture
def repository(both: Database, ada: int) -> Repository:
    return new_repository(both, ada)


@pytest.fixture
def analysis(both: Database, repository: Repository, ada: int) -> Analysis:
    """An analysis that Ada has requested."""
    return both.run(store.start_analysis, repository.id, requested_by=ada)[0]


def row_of(database: Database, analysis: Analysis) -> Any:
    statement = select(analyses).where(analyses.c.id == analysis.id)
    return database.run(lambda connection: connection.execute(statement).one())


def notified(notifications: Notifications, user_id: int) -> list[str]:
    return [item.type for item in notifications.after(user_id, 0).items]


def stop_if_heartbeat_fails(_: Progress, heartbeat: Heartbeat) -> dict[str, Any]:
    if not heartbeat():
        raise JobStopped
    return report()


def test_report_is_saved_and_notified_once(
    both: Database,
    runner: AnalysisRunner,
    analysis: Analysis,
    ada: int,
    notifications: Notifications,
    published: Published,
    process: FakeProcess,
) -> None:
    runner.run(analysis.id)
    runner.run(analysis.id)
    assert [request.url for request in process.requests] == [URL]
    assert both.run(store.get_report, analysis.id) == report()
    assert notified(notifications, ada) == published.pushed() == ["analysis.succeeded"]
    assert published.statuses()[-1] == "succeeded"


def test_all_followers_are_notified_of_changes(
    both: Database,
    runner: AnalysisRunner,
    repository: Repository,
    ada: int,
    notifications: Notifications,
    process: FakeProcess,
) -> None:
    bob = new_user(both, "bob@example.org")
    both.run(store.follow, bob, repository.id)
    runner.run(started(both, repository).id)
    process.does = lambda *_: report("2.0", "2026-01-01T00:00:00Z", overall=90)
    runner.run(started(both, repository).id)
    kinds = ["analysis.succeeded", "score.changed", "release.found"]
    assert notified(notifications, ada) == notified(notifications, bob) == kinds


def test_all_users_who_requested_an_analysis_are_told_that_it_succeeded(
    both: Database, runner: AnalysisRunner, repository: Repository, analysis: Analysis, ada: int, notifications: Notifications
) -> None:
    bob, eve = new_user(both, "bob@example.org"), new_user(both, "eve@example.org")
    runner.run(analysis.id)
    for user_id in (bob, eve):
        both.run(store.follow, user_id, repository.id)
    requested, _ = both.run(store.start_analysis, repository.id, requested_by=ada)
    both.run(store.record_request, requested.id, eve)
    runner.run(requested.id)
    assert [notified(notifications, user_id) for user_id in (ada, bob, eve)] == [
        ["analysis.succeeded"] * 2,
        [],
        ["analysis.succeeded"],
    ]


def test_types_that_a_user_has_switched_off_are_not_notified(
    both: Database,
    runner: AnalysisRunner,
    repository: Repository,
    analysis: Analysis,
    ada: int,
    notifications: Notifications,
    process: FakeProcess,
) -> None:
    users = [ada, *(new_user(both, f"{name}@example.org") for name in ("bob", "eve", "kim"))]
    for user_id in users[1:]:
        both.run(store.follow, user_id, repository.id)
    _, bob, eve, kim = users
    notifications.subscribe(bob, {"release.found": False}, inherit=False)
    notifications.subscribe(kim, {"release.found": False}, inherit=False)
    both.run(store.save_subscription, eve, repository.id, {"score.changed": False})
    both.run(store.save_subscription, kim, repository.id, {"release.found": True})
    runner.run(analysis.id)
    process.does = lambda *_: report("2.0", "2026-01-01T00:00:00Z", overall=90)
    runner.run(started(both, repository).id)
    score, release = "score.changed", "release.found"
    assert [notified(notifications, one)[1:] for one in users] == [[score, release], [score], [release], [score, release]]


@pytest.mark.parametrize("both", ["postgresql"], indirect=True)
def test_user_who_requests_an_analysis_while_its_outcome_is_saved_is_notified(
    both: Database,
    runner: AnalysisRunner,
    repository: Repository,
    analysis: Analysis,
    ada: int,
    notifications: Notifications,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_runner, "DATABASE_RETRY_SECONDS", 0.0)
    runner.run(analysis.id)
    requested, _ = both.run(store.start_analysis, repository.id, requested_by=ada)
    bob, lock = new_user(both, "bob@example.org"), store.lock_repository

    def lock_later(connection: Any, repository_id: int) -> None:
        both.run(store.follow, bob, repository_id)
        both.run(store.record_request, requested.id, bob)
        lock(connection, repository_id)

    monkeypatch.setattr(store, "lock_repository", lock_later)
    runner.run(requested.id)
    assert notified(notifications, bob) == ["analysis.succeeded"]


def test_message_for_a_leased_job_is_sent_again_when_the_lease_expires(
    both: Database, runner: AnalysisRunner, analysis: Analysis, sent: list[tuple[int, float]], process: FakeProcess
) -> None:
    claimed(both, analysis)
    runner.run(analysis.id)
    ((again, delay),) = sent
    assert again == analysis.id
    assert LEASE_DURATION.total_seconds() - 2 < delay <= LEASE_DURATION.total_seconds()
    assert process.requests == []


def test_permanent_failure_is_not_retried(
    runner: AnalysisRunner,
    analysis: Analysis,
    both: Database,
    ada: int,
    notifications: Notifications,
    process: FakeProcess,
) -> None:
    def fail(*_: Any) -> dict[str, Any]:
        raise AnalysisFailed("There is no public repository at this address.", permanent=True)

    process.does = fail
    runner.run(analysis.id)
    row = row_of(both, analysis)
    assert (row.status, row.attempts, row.error) == ("failed", 1, "There is no public repository at this address.")
    assert notified(notifications, ada) == ["analysis.failed"]


def test_temporary_failure_is_retried_up_to_three_attempts(
    runner: AnalysisRunner,
    analysis: Analysis,
    both: Database,
    ada: int,
    notifications: Notifications,
    sent: list[tuple[int, float]],
    process: FakeProcess,
) -> None:
    def fail(*_: Any) -> dict[str, Any]:
        raise AnalysisFailed("The server does not answer.", permanent=False)

    process.does = fail
    for expected in ("queued", "queued", "failed"):
        runner.run(analysis.id)
        assert row_of(both, analysis).status == expected
        let_time_pass(both, analysis, timedelta(seconds=10), "dispatched_at")
    assert sent == [(analysis.id, 3.0), (analysis.id, 10.0)]
    assert row_of(both, analysis).error == "The server does not answer."
    assert notified(notifications, ada) == ["analysis.failed"]


def test_job_interrupted_three_times_fails(
    runner: AnalysisRunner,
    analysis: Analysis,
    both: Database,
    ada: int,
    notifications: Notifications,
    process: FakeProcess,
) -> None:
    for number in range(MAX_ATTEMPTS):
        claimed(both, analysis, f"killed-{number}")
        let_time_pass(both, analysis, LEASE_DURATION + timedelta(seconds=1), "leased_until")
    runner.run(analysis.id)
    row = row_of(both, analysis)
    assert (row.status, row.error) == ("failed", "It was started 3 times and interrupted each time.")
    assert notified(notifications, ada) == ["analysis.failed"]
    assert process.requests == []


def test_stopping_worker_releases_the_job_without_counting_the_attempt(
    make_runner: Callable[[], AnalysisRunner],
    analysis: Analysis,
    both: Database,
    sent: list[tuple[int, float]],
    published: Published,
    process: FakeProcess,
) -> None:
    first = make_runner()

    def stop_during_work(progress: Progress, heartbeat: Heartbeat) -> dict[str, Any]:
        assert heartbeat()
        first.stop()
        return stop_if_heartbeat_fails(progress, heartbeat)

    process.does = stop_during_work
    first.run(analysis.id)
    row = row_of(both, analysis)
    assert (row.status, row.attempts, sent) == ("queued", 0, [(analysis.id, 0)])
    assert published.statuses() == ["running", "queued"]
    process.does = stop_if_heartbeat_fails
    make_runner().run(analysis.id)
    row = row_of(both, analysis)
    assert (row.status, row.attempts) == ("succeeded", 1)


def test_cancelled_job_stops_and_changes_nothing(
    both: Database,
    runner: AnalysisRunner,
    analysis: Analysis,
    ada: int,
    notifications: Notifications,
    sent: list[tuple[int, float]],
    process: FakeProcess,
) -> None:
    def cancel_during_work(progress: Progress, heartbeat: Heartbeat) -> dict[str, Any]:
        both.run(store.cancel, analysis.id)
        return stop_if_heartbeat_fails(progress, heartbeat)

    process.does = cancel_during_work
    runner.run(analysis.id)
    assert row_of(both, analysis).status == "cancelled"
    assert (notified(notifications, ada), sent) == ([], [])


def test_worker_that_lost_its_lease_saves_nothing(
    both: Database,
    runner: AnalysisRunner,
    analysis: Analysis,
    ada: int,
    notifications: Notifications,
    process: FakeProcess,
) -> None:
    def lose_lease(*_: Any) -> dict[str, Any]:
        let_time_pass(both, analysis, LEASE_DURATION + timedelta(seconds=1), "leased_until")
        claimed(both, analysis, "other")
        return report()

    process.does = lose_lease
    runner.run(analysis.id)
    row = row_of(both, analysis)
    assert (row.status, row.lease, row.report) == ("running", "other", None)
    assert notified(notifications, ada) == []


def test_progress_only_increases_and_is_published_on_change(
    both: Database,
    runner: AnalysisRunner,
    analysis: Analysis,
    published: Published,
    process: FakeProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "PROGRESS_INTERVAL_SECONDS", 0.0)

    def progress_slowly(progress: Progress, heartbeat: Heartbeat) -> dict[str, Any]:
        for percent in (10, 10, 30, 20):
            progress(percent, "Counting")
            assert heartbeat()
        return report()

    process.does = progress_slowly
    runner.run(analysis.id)
    seen = [(message["analysis"]["progress"], message["analysis"]["status"]) for kind, message in published if kind == "analysis"]
    assert seen == [(10, "running"), (30, "running"), (100, "succeeded")]


def test_progress_is_published_at_most_twice_a_second(
    runner: AnalysisRunner, analysis: Analysis, published: Published, process: FakeProcess
) -> None:
    def progress_fast(progress: Progress, heartbeat: Heartbeat) -> dict[str, Any]:
        for percent in range(100):
            progress(percent, "Counting")
            assert heartbeat()
        return report()

    process.does = progress_fast
    runner.run(analysis.id)
    assert len(published.statuses()) <= 3


class Outage:
    """Makes the next `count` calls to the database fail."""

    def __init__(self, database: Database, count: int) -> None:
        self.remaining = count
        self._run = database.run_within

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.remaining:
            self.remaining -= 1
            raise DatabaseUnavailable
        return self._run(*arguments, **options)


def test_outcome_survives_a_database_outage(
    both: Database,
    runner: AnalysisRunner,
    analysis: Analysis,
    ada: int,
    notifications: Notifications,
    process: FakeProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_runner, "DATABASE_RETRY_SECONDS", 0.0)
    outage = Outage(both, 0)

    def work_during_outage(_: Progress, heartbeat: Heartbeat) -> dict[str, Any]:
        monkeypatch.setattr(both, "run_within", outage)
        outage.remaining = 3
        assert heartbeat()
        assert outage.remaining == 2
        return report()

    process.does = work_during_outage
    runner.run(analysis.id)
    assert (outage.remaining, row_of(both, analysis).status) == (0, "succeeded")
    assert notified(notifications, ada) == ["analysis.succeeded"]


def test_job_that_can_not_be_claimed_is_sent_again(
    both: Database,
    runner: AnalysisRunner,
    analysis: Analysis,
    sent: list[tuple[int, float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(both, "run", Outage(both, 1))
    runner.run(analysis.id)
    assert sent == [(analysis.id, 5.0)]


def test_lost_job_is_enqueued_again(
    both: Database, runner: AnalysisRunner, analysis: Analysis, sent: list[tuple[int, float]]
) -> None:
    runner.requeue_lost()
    assert sent == []
    let_time_pass(both, analysis, PICKUP_TIMEOUT + timedelta(seconds=1), "dispatched_at")
    runner.requeue_lost()
    runner.requeue_lost()
    assert sent == [(analysis.id, 0)]


@pytest.mark.parametrize("both", ["postgresql"], indirect=True)
def test_backlog_in_redis_does_not_grow_and_new_requests_do_not_wait_for_it(
    both: Database,
    notifications: Notifications,
    embedded: dict[str, str],
    process: FakeProcess,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten minutes with many waiting analyses, while no worker is free."""
    queue, ada, bob = JobQueues(redis_broker(redis_client)).analyses, new_user(both), new_user(both, "bob@example.org")
    runner = AnalysisRunner(config.load(embedded), both, notifications, queue.send, process)
    waiting = [both.run(store.add_repository, f"{URL}/{number}", "many") for number in range(count(60, 3000))]
    for number, repository in enumerate(waiting):
        queue.send(both.run(store.start_analysis, repository.id, ada if number < 50 else None)[0].id)
    for seconds in range(0, 600, 10):
        monkeypatch.setattr(leases, "now", lambda _, seconds=seconds: datetime.now(UTC) + timedelta(seconds=seconds))
        runner.requeue_lost()
    assert len(waiting) < redis_client.llen("dramatiq:analyses") <= len(waiting) + 5 * job_runner.MAX_REQUEUED
    repository = new_repository(both, bob)
    both.run(store.start_analysis, repository.id, bob)
    runner.run(4711)
    runner.run(4711)
    assert [request.url for request in process.requests] == [waiting[0].url, repository.url]


def test_due_analysis_is_started_and_unfollowed_repository_deleted(
    both: Database, runner: AnalysisRunner, repository: Repository, ada: int, sent: list[tuple[int, float]]
) -> None:
    new_repository(both, url="https://example.org/unfollowed")
    past = update(repositories).values(due_at=datetime.now(UTC) - timedelta(days=2))
    both.run(lambda connection: connection.execute(past))
    runner.start_due()
    runner.start_due()
    (followed,) = both.run(store.list_followed, ada)
    assert followed.analysis is not None
    assert sent == [(followed.analysis.id, 0)]
    assert both.run(lambda connection: connection.execute(select(repositories.c.id)).scalars().all()) == [repository.id]


def test_unfinished_jobs_are_enqueued_at_the_start_of_an_embedded_instance(
    both: Database, runner: AnalysisRunner, analysis: Analysis, sent: list[tuple[int, float]]
) -> None:
    claimed(both, analysis)
    runner.requeue_all()
    assert sent == [(analysis.id, 0)]
    assert row_of(both, analysis).status == "queued"
