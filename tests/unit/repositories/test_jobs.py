from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from app.core import config
from app.database.engine import Database, DatabaseUnavailable
from app.database.schema import analyses, repositories
from app.jobs import runner as job_runner
from app.jobs.failures import JobStopped
from app.jobs.leases import LEASE_DURATION, PICKUP_TIMEOUT
from app.jobs.runner import MAX_ATTEMPTS
from app.notifications.service import Notifications
from app.repositories import jobs, store
from app.repositories.jobs import Analyst
from app.repositories.runner import AnalysisFailed, Request
from app.repositories.store import Analysis, Repository
from tests.unit.repositories.conftest import URL, Published, claimed, let_time_pass, new_repository, new_user, report, started

Going = Callable[[], bool]
Progress = Callable[[int, str], None]


class Runner:
    """Stands in for the child process: does what the test says."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.does: Callable[[Progress, Going], dict[str, Any]] = lambda *_: report()

    def __call__(self, request: Request, progress: Progress, keep_going: Going) -> dict[str, Any]:
        self.requests.append(request)
        return self.does(progress, keep_going)


@pytest.fixture
def runner() -> Runner:
    return Runner()


@pytest.fixture
def sent() -> list[tuple[int, float]]:
    return []


@pytest.fixture
def make_analyst(
    both: Database, notifications: Notifications, embedded: dict[str, str], sent: list[tuple[int, float]], runner: Runner
) -> Callable[[], Analyst]:
    settings = config.load(embedded)
    return lambda: Analyst(settings, both, notifications, lambda *message: sent.append(message), runner)


@pytest.fixture
def analyst(make_analyst: Callable[[], Analyst]) -> Analyst:
    return make_analyst()


@pytest.fixture
def ada(both: Database) -> int:
    return new_user(both)


@pytest.fixture
def repository(both: Database, ada: int) -> Repository:
    return new_repository(both, ada)


@pytest.fixture
def analysis(both: Database, repository: Repository) -> Analysis:
    return started(both, repository)


def row_of(database: Database, analysis: Analysis) -> Any:
    statement = select(analyses).where(analyses.c.id == analysis.id)
    return database.run(lambda connection: connection.execute(statement).one())


def told(notifications: Notifications, user_id: int) -> list[str]:
    return [item.type for item in notifications.after(user_id, 0).items]


def stopped_when_told(_: Progress, keep_going: Going) -> dict[str, Any]:
    if not keep_going():
        raise JobStopped
    return report()


def test_a_report_is_stored_and_told_once(
    both: Database,
    analyst: Analyst,
    analysis: Analysis,
    ada: int,
    notifications: Notifications,
    published: Published,
    runner: Runner,
) -> None:
    analyst.run(analysis.id)
    analyst.run(analysis.id)
    assert [request.url for request in runner.requests] == [URL]
    assert both.run(store.report, analysis.id) == report()
    assert told(notifications, ada) == published.pushed() == ["analysis.succeeded"]
    assert published.statuses()[-1] == "succeeded"


def test_all_followers_hear_what_has_changed(
    both: Database, analyst: Analyst, repository: Repository, ada: int, notifications: Notifications, runner: Runner
) -> None:
    bob = new_user(both, "bob@example.org")
    both.run(store.follow, bob, repository.id)
    analyst.run(started(both, repository).id)
    runner.does = lambda *_: report("2.0", "2026-01-01T00:00:00Z", overall=90)
    analyst.run(started(both, repository).id)
    kinds = ["analysis.succeeded", "analysis.succeeded", "score.changed", "release.found"]
    assert told(notifications, ada) == told(notifications, bob) == kinds


def test_a_message_that_meets_a_live_lease_comes_back_when_that_ends(
    both: Database, analyst: Analyst, analysis: Analysis, sent: list[tuple[int, float]], runner: Runner
) -> None:
    claimed(both, analysis)
    analyst.run(analysis.id)
    ((again, delay),) = sent
    assert again == analysis.id
    assert LEASE_DURATION.total_seconds() - 2 < delay <= LEASE_DURATION.total_seconds()
    assert runner.requests == []


def test_a_lasting_failure_is_final(
    analyst: Analyst, analysis: Analysis, both: Database, ada: int, notifications: Notifications, runner: Runner
) -> None:
    def fail(*_: Any) -> dict[str, Any]:
        raise AnalysisFailed("There is no public repository at this address.", permanent=True)

    runner.does = fail
    analyst.run(analysis.id)
    row = row_of(both, analysis)
    assert (row.status, row.attempts, row.error) == ("failed", 1, "There is no public repository at this address.")
    assert told(notifications, ada) == ["analysis.failed"]


def test_another_failure_is_tried_three_times(
    analyst: Analyst,
    analysis: Analysis,
    both: Database,
    ada: int,
    notifications: Notifications,
    sent: list[tuple[int, float]],
    runner: Runner,
) -> None:
    def fail(*_: Any) -> dict[str, Any]:
        raise AnalysisFailed("The server does not answer.", permanent=False)

    runner.does = fail
    for expected in ("queued", "queued", "failed"):
        analyst.run(analysis.id)
        assert row_of(both, analysis).status == expected
    assert sent == [(analysis.id, 3.0), (analysis.id, 10.0)]
    assert row_of(both, analysis).error == "The server does not answer."
    assert told(notifications, ada) == ["analysis.failed"]


def test_what_ends_its_worker_is_given_up(
    analyst: Analyst, analysis: Analysis, both: Database, ada: int, notifications: Notifications, runner: Runner
) -> None:
    for number in range(MAX_ATTEMPTS):
        claimed(both, analysis, f"killed-{number}")
        let_time_pass(both, analysis, LEASE_DURATION + timedelta(seconds=1), "leased_until")
    analyst.run(analysis.id)
    row = row_of(both, analysis)
    assert (row.status, row.error) == ("failed", "It was started 3 times and interrupted each time.")
    assert told(notifications, ada) == ["analysis.failed"]
    assert runner.requests == []


def test_who_stops_hands_over_without_counting_it(
    make_analyst: Callable[[], Analyst],
    analysis: Analysis,
    both: Database,
    sent: list[tuple[int, float]],
    published: Published,
    runner: Runner,
) -> None:
    first = make_analyst()

    def be_stopped(progress: Progress, keep_going: Going) -> dict[str, Any]:
        assert keep_going()
        first.stop()
        return stopped_when_told(progress, keep_going)

    runner.does = be_stopped
    first.run(analysis.id)
    row = row_of(both, analysis)
    assert (row.status, row.attempts, sent) == ("queued", 0, [(analysis.id, 0)])
    assert published.statuses() == ["running", "queued"]
    runner.does = stopped_when_told
    make_analyst().run(analysis.id)
    row = row_of(both, analysis)
    assert (row.status, row.attempts) == ("succeeded", 1)


def test_who_was_cancelled_stops_and_changes_nothing(
    both: Database,
    analyst: Analyst,
    analysis: Analysis,
    ada: int,
    notifications: Notifications,
    sent: list[tuple[int, float]],
    runner: Runner,
) -> None:
    def be_cancelled(progress: Progress, keep_going: Going) -> dict[str, Any]:
        both.run(store.cancel, analysis.id)
        return stopped_when_told(progress, keep_going)

    runner.does = be_cancelled
    analyst.run(analysis.id)
    assert row_of(both, analysis).status == "cancelled"
    assert (told(notifications, ada), sent) == ([], [])


def test_who_lost_the_claim_while_it_finished_stores_nothing(
    both: Database, analyst: Analyst, analysis: Analysis, ada: int, notifications: Notifications, runner: Runner
) -> None:
    def lose(*_: Any) -> dict[str, Any]:
        let_time_pass(both, analysis, LEASE_DURATION + timedelta(seconds=1), "leased_until")
        claimed(both, analysis, "other")
        return report()

    runner.does = lose
    analyst.run(analysis.id)
    row = row_of(both, analysis)
    assert (row.status, row.lease, row.report) == ("running", "other", None)
    assert told(notifications, ada) == []


def test_progress_goes_up_and_is_told_on_change(
    both: Database, analyst: Analyst, analysis: Analysis, published: Published, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PROGRESS_INTERVAL_SECONDS", 0.0)

    def progress_slowly(progress: Progress, keep_going: Going) -> dict[str, Any]:
        for percent in (10, 10, 30, 20):
            progress(percent, "Counting")
            assert keep_going()
        return report()

    runner.does = progress_slowly
    analyst.run(analysis.id)
    seen = [(message["analysis"]["progress"], message["analysis"]["status"]) for kind, message in published if kind == "analysis"]
    assert seen == [(10, "running"), (30, "running"), (100, "succeeded")]


def test_progress_is_told_at_most_twice_a_second(
    analyst: Analyst, analysis: Analysis, published: Published, runner: Runner
) -> None:
    def progress_fast(progress: Progress, keep_going: Going) -> dict[str, Any]:
        for percent in range(100):
            progress(percent, "Counting")
            assert keep_going()
        return report()

    runner.does = progress_fast
    analyst.run(analysis.id)
    assert len(published.statuses()) <= 3


class Outage:
    """A database that does not answer, so many times."""

    def __init__(self, database: Database, count: int) -> None:
        self.left = count
        self._run = database.run_within

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.left:
            self.left -= 1
            raise DatabaseUnavailable
        return self._run(*arguments, **options)


def test_an_outage_of_the_database_loses_no_outcome(
    both: Database,
    analyst: Analyst,
    analysis: Analysis,
    ada: int,
    notifications: Notifications,
    runner: Runner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_runner, "DATABASE_RETRY_SECONDS", 0.0)
    outage = Outage(both, 0)

    def work_through_it(_: Progress, keep_going: Going) -> dict[str, Any]:
        monkeypatch.setattr(both, "run_within", outage)
        outage.left = 3
        assert keep_going()
        assert outage.left == 2
        return report()

    runner.does = work_through_it
    analyst.run(analysis.id)
    assert (outage.left, row_of(both, analysis).status) == (0, "succeeded")
    assert told(notifications, ada) == ["analysis.succeeded"]


def test_who_can_not_claim_tries_again_soon(
    both: Database, analyst: Analyst, analysis: Analysis, sent: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(both, "run", Outage(both, 1))
    analyst.run(analysis.id)
    assert sent == [(analysis.id, 5.0)]


def test_the_sweep_sends_what_got_lost(
    both: Database, analyst: Analyst, analysis: Analysis, sent: list[tuple[int, float]]
) -> None:
    analyst.requeue_lost()
    assert sent == []
    let_time_pass(both, analysis, PICKUP_TIMEOUT + timedelta(seconds=1), "dispatched_at")
    analyst.requeue_lost()
    analyst.requeue_lost()
    assert sent == [(analysis.id, 0)]


def test_the_sweep_starts_what_is_due_and_removes_what_nobody_follows(
    both: Database, analyst: Analyst, repository: Repository, ada: int, sent: list[tuple[int, float]]
) -> None:
    new_repository(both, url="https://example.org/alone")
    past = update(repositories).values(due_at=datetime.now(UTC) - timedelta(days=2))
    both.run(lambda connection: connection.execute(past))
    analyst.start_due()
    analyst.start_due()
    (entry,) = both.run(store.entries, ada)
    assert entry.analysis is not None
    assert sent == [(entry.analysis.id, 0)]
    assert both.run(lambda connection: connection.execute(select(repositories.c.id)).scalars().all()) == [repository.id]


def test_what_was_left_behind_is_sent_at_the_start(
    both: Database, analyst: Analyst, analysis: Analysis, sent: list[tuple[int, float]]
) -> None:
    claimed(both, analysis)
    analyst.requeue_all()
    assert sent == [(analysis.id, 0)]
    assert row_of(both, analysis).status == "queued"
