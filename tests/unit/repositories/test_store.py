from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from app.database.engine import Database
from app.database.schema import analyses, repositories
from app.jobs import leases
from app.jobs.leases import LEASE_DURATION, MAX_PICKUP_TIMEOUT, PICKUP_TIMEOUT
from app.repositories import store
from app.repositories.store import KEPT_ANALYSES, Analysis, AnalysisLease, FollowedRepository, Repository
from tests.unit.repositories.conftest import claimed, let_time_pass, new_repository, new_user, not_yet, report, started

SHORT_TIME = timedelta(seconds=5)


def count(database: Database, *conditions: Any) -> int:
    statement = select(func.count()).select_from(analyses).where(*conditions)
    return database.run(lambda connection: connection.execute(statement).scalar_one())


def row_of(database: Database, analysis: Analysis) -> dict[str, Any]:
    statement = select(analyses).where(analyses.c.id == analysis.id)
    return dict(database.run(lambda connection: connection.execute(statement).mappings().one()))


def set_due(database: Database, repository: Repository, moment: datetime) -> None:
    statement = update(repositories).where(repositories.c.id == repository.id).values(due_at=moment)
    database.run(lambda connection: connection.execute(statement))


def test_same_url_is_one_repository(both: Database) -> None:
    first = both.run(store.add_repository, "https://example.org/a", "a")
    assert both.run(store.add_repository, "https://example.org/a", "a") == first
    assert both.run(store.add_repository, "https://example.org/b", "b") != first


def test_following_is_idempotent(both: Database) -> None:
    ada = new_user(both)
    repository = new_repository(both, ada, ada)
    assert both.run(store.followers, repository.id) == [ada]
    assert both.run(store.count_followed, ada) == 1
    assert both.run(store.unfollow, ada, repository.id)
    assert not both.run(store.unfollow, ada, repository.id)
    assert not both.run(store.is_followed, ada, repository.id)


def test_repository_has_at_most_one_live_analysis(both: Database) -> None:
    repository = new_repository(both)
    first, new = both.run(store.start_analysis, repository.id)
    assert (new, first.status) == (True, "queued")
    assert both.run(store.start_analysis, repository.id) == (first, False)
    assert both.run(store.cancel, first.id)
    second, new = both.run(store.start_analysis, repository.id)
    assert new
    assert second.id > first.id


def test_started_analysis_postpones_the_daily_one(both: Database) -> None:
    repository = new_repository(both)
    set_due(both, repository, datetime.now(UTC))
    started(both, repository)
    assert both.run(store.list_due, 10) == []


def test_leased_analysis_can_not_be_claimed(both: Database) -> None:
    analysis = started(both, new_repository(both))
    lease = claimed(both, analysis)
    assert (lease.attempt, lease.analysis.status, lease.repository.name) == (1, "running", "flask")
    assert LEASE_DURATION.total_seconds() - 2 < not_yet(both, analysis).seconds <= LEASE_DURATION.total_seconds()


def test_expired_lease_can_be_claimed_and_its_old_holder_changes_nothing(both: Database) -> None:
    analysis = started(both, new_repository(both))
    first = claimed(both, analysis, "first")
    let_time_pass(both, analysis, LEASE_DURATION + SHORT_TIME, "leased_until")
    second = claimed(both, analysis, "second")
    assert second.attempt == 2
    assert not both.run(store.leases.renew, first, progress=50, step="Counting")
    assert not both.run(store.succeed, first, report())
    assert not both.run(store.fail, first, "no")
    assert not both.run(store.leases.release, first, attempts=0, delay=timedelta(0), step="")
    assert both.run(store.leases.renew, second, progress=50, step="Counting")
    assert both.run(store.succeed, second, report())
    assert count(both, analyses.c.report.is_not(None)) == 1


def test_renewed_lease_does_not_expire(both: Database) -> None:
    analysis = started(both, new_repository(both))
    lease = claimed(both, analysis)
    let_time_pass(both, analysis, LEASE_DURATION + SHORT_TIME, "leased_until")
    assert both.run(store.leases.renew, lease, progress=40, step="Counting")
    not_yet(both, analysis)
    row = row_of(both, analysis)
    assert (row["progress"], row["step"]) == (40, "Counting")


def test_finished_analysis_can_not_be_claimed_or_cancelled(both: Database) -> None:
    analysis = started(both, new_repository(both))
    assert both.run(store.succeed, claimed(both, analysis), report())
    assert both.run(store.claim, analysis.id, "late") is None
    assert both.run(store.claim, 4711, "late") is None
    assert not both.run(store.cancel, analysis.id)


def test_success_is_saved_in_the_row(both: Database) -> None:
    analysis = started(both, new_repository(both))
    both.run(store.succeed, claimed(both, analysis), report(activity=None, overall=83))
    row = row_of(both, analysis)
    assert (row["status"], row["progress"], row["lease"], row["leased_until"]) == ("succeeded", 100, None, None)
    assert row["as_of"] == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (row["scores"]["activity"], row["scores"]["overall"]) == (None, 83)
    assert both.run(store.get_report, analysis.id) == row["report"] == report(activity=None, overall=83)


def test_cancelling_revokes_the_lease(both: Database) -> None:
    analysis = started(both, new_repository(both))
    lease = claimed(both, analysis)
    assert both.run(store.cancel, analysis.id)
    assert not both.run(store.leases.renew, lease, progress=50, step="Counting")
    assert not both.run(store.succeed, lease, report())
    assert row_of(both, analysis)["status"] == "cancelled"


def test_released_analysis_is_queued_again(both: Database) -> None:
    analysis = started(both, new_repository(both))
    assert both.run(store.leases.release, claimed(both, analysis), attempts=0, delay=timedelta(seconds=9), step="Waiting")
    row = row_of(both, analysis)
    assert (row["status"], row["attempts"], row["lease"]) == ("queued", 0, None)
    assert row["dispatched_at"] > row["requested_at"] + timedelta(seconds=8)
    let_time_pass(both, analysis, timedelta(seconds=9), "dispatched_at")
    assert claimed(both, analysis, "other").attempt == 1


def test_queued_analysis_without_a_message_is_found_once(both: Database) -> None:
    analysis = started(both, new_repository(both))
    assert both.run(store.leases.take_lost, 10) == []
    let_time_pass(both, analysis, PICKUP_TIMEOUT + SHORT_TIME, "requested_at", "dispatched_at")
    assert both.run(store.leases.take_lost, 10) == [analysis.id]
    assert both.run(store.leases.take_lost, 10) == []


def test_pause_before_an_analysis_is_enqueued_again_grows_with_the_wait(both: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    analysis, sweep = started(both, new_repository(both)), timedelta(seconds=20)
    enqueued, waited = [], timedelta(0)
    while waited < 3 * MAX_PICKUP_TIMEOUT:
        waited += sweep
        monkeypatch.setattr(leases, "now", lambda _, waited=waited: analysis.requested_at + waited)
        if both.run(store.leases.take_lost, 10):
            enqueued.append(waited.total_seconds())
    assert enqueued == [40, 100, 220, 460, 940, 1560]


def test_only_the_next_analyses_are_enqueued_again(both: Database) -> None:
    """Each message lets the next analysis start, so all others need none."""
    waiting = [started(both, new_repository(both, url=f"https://example.org/{number}")) for number in range(5)]
    for analysis in waiting:
        let_time_pass(both, analysis, PICKUP_TIMEOUT + SHORT_TIME, "requested_at", "dispatched_at")
    assert both.run(store.leases.take_lost, 2) == [analysis.id for analysis in waiting[:2]]
    assert both.run(store.leases.take_lost, 2) == []
    claimed(both, waiting[0])
    assert both.run(store.leases.take_lost, 2) == [waiting[2].id]


def test_requested_analyses_go_before_daily_ones_and_users_take_turns(both: Database) -> None:
    """Each letter is the user who requested one of the analyses, in this order; "-" is a daily one."""
    users = {"-": None, "a": new_user(both), "b": new_user(both, "bob@example.org"), "c": new_user(both, "eve@example.org")}
    requested = "-aaaab-bc"
    by_id = {
        both.run(store.start_analysis, new_repository(both, url=f"https://example.org/{number}").id, users[letter])[0].id: letter
        for number, letter in enumerate(requested)
    }
    order = []
    for number in range(len(requested)):
        lease = both.run(store.claim, 4711, str(number))
        assert isinstance(lease, AnalysisLease)
        order.append(by_id[lease.job_id])
    assert "".join(order) == "abcabaa--"
    assert both.run(store.claim, 4711, "late") is None


@pytest.mark.parametrize("both", ["postgresql"], indirect=True)  # SQLite runs one transaction after the other
def test_concurrent_workers_claim_different_analyses(both: Database) -> None:
    waiting = {started(both, new_repository(both, url=f"https://example.org/{number}")).id for number in range(20)}
    with ThreadPoolExecutor(5) as workers:
        leases = list(workers.map(lambda number: both.run(store.claim, 4711, str(number)), range(25)))
    assert {lease.job_id for lease in leases if isinstance(lease, AnalysisLease)} == waiting
    assert leases.count(None) == 5


def test_new_user_joins_the_current_turn(both: Database) -> None:
    ada, bob = new_user(both), new_user(both, "bob@example.org")
    repositories = [new_repository(both, url=f"https://example.org/{number}") for number in range(5)]
    for repository in repositories[:4]:
        both.run(store.start_analysis, repository.id, ada)
    for holder in ("one", "two"):
        lease = both.run(store.claim, 4711, holder)
        assert isinstance(lease, AnalysisLease)
        both.run(store.fail, lease, "no")
    both.run(store.claim, 4711, "three")
    requested, _ = both.run(store.start_analysis, repositories[4].id, bob)
    assert claimed(both, requested).job_id == requested.id


def test_requesting_a_daily_analysis_that_waits_makes_it_a_requested_one(both: Database) -> None:
    ada = new_user(both)
    other, repository = new_repository(both, url="https://example.org/other"), new_repository(both)
    started(both, other)
    daily = started(both, repository)
    assert both.run(store.start_analysis, repository.id, ada) == (daily, True)
    assert both.run(store.start_analysis, repository.id, ada) == (daily, False)
    assert both.run(store.count_requested_analyses, ada) == 1
    assert claimed(both, daily).job_id == daily.id
    both.run(store.cancel, daily.id)
    assert both.run(store.count_requested_analyses, ada) == 0


def test_retry_that_is_not_due_is_not_claimed(both: Database) -> None:
    analysis = started(both, new_repository(both))
    both.run(store.leases.release, claimed(both, analysis), attempts=1, delay=timedelta(seconds=9), step="Waiting")
    assert 7 < not_yet(both, analysis).seconds <= 9


def test_running_analysis_of_a_dead_worker_is_found(both: Database) -> None:
    analysis = started(both, new_repository(both))
    claimed(both, analysis)
    let_time_pass(both, analysis, PICKUP_TIMEOUT + SHORT_TIME, "dispatched_at")
    assert both.run(store.leases.take_lost, 10) == []  # it is running
    let_time_pass(both, analysis, LEASE_DURATION + SHORT_TIME, "leased_until")
    assert both.run(store.leases.take_lost, 10) == [analysis.id]


def test_release_all_queues_every_unfinished_analysis(both: Database) -> None:
    running = started(both, new_repository(both))
    queued = started(both, new_repository(both, url="https://example.org/b"))
    finished = started(both, new_repository(both, url="https://example.org/c"))
    lease = claimed(both, running)
    both.run(store.cancel, finished.id)
    assert both.run(store.leases.release_all) == [running.id, queued.id]
    assert not both.run(store.leases.renew, lease, progress=50, step="Counting")
    assert claimed(both, running).attempt == 2


def test_due_repository_is_claimed_once(both: Database) -> None:
    repository = new_repository(both)
    assert both.run(store.list_due, 10) == []
    assert not both.run(store.claim_due, repository.id)
    set_due(both, repository, datetime.now(UTC) - timedelta(days=3))
    assert both.run(store.list_due, 10) == [repository.id]
    assert both.run(store.claim_due, repository.id)
    assert not both.run(store.claim_due, repository.id)
    assert both.run(store.list_due, 10) == []


def test_only_unfollowed_repository_is_deleted(both: Database) -> None:
    followed = new_repository(both, new_user(both))
    unfollowed = new_repository(both, url="https://example.org/b")
    started(both, unfollowed)
    assert not both.run(store.delete_if_unfollowed, followed.id)
    assert both.run(store.delete_if_unfollowed, unfollowed.id)
    assert count(both) == 0


def test_list_contains_the_latest_analysis_and_the_latest_scores(both: Database) -> None:
    ada = new_user(both)
    old, new = new_repository(both, ada), new_repository(both, ada, url="https://example.org/b")
    both.run(store.succeed, claimed(both, started(both, old)), report(overall=70))
    again = started(both, old)
    newest, oldest = both.run(store.list_followed, ada)
    assert (newest.id, newest.analysis, newest.scores, newest.as_of) == (new.id, None, None, None)
    assert oldest.analysis == again
    assert (oldest.scores or {})["overall"] == 70
    assert oldest.as_of == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert [found.id for found in both.run(store.list_followed, ada, [old.id])] == [old.id]
    assert both.run(store.list_followed, new_user(both, "bob@example.org")) == []


def test_history_is_newest_first(both: Database) -> None:
    repository = new_repository(both)
    ids = []
    for overall in (10, 20):
        analysis = started(both, repository)
        both.run(store.succeed, claimed(both, analysis), report(overall=overall))
        ids.append(analysis.id)
    both.run(store.fail, claimed(both, started(both, repository)), "no")
    found = both.run(store.history, repository.id)
    assert [(past.analysis_id, past.scores["overall"]) for past in found] == [(ids[1], 20), (ids[0], 10)]


def test_history_names_the_version_of_the_formulas(both: Database) -> None:
    ada = new_user(both)
    repository = new_repository(both, ada)
    for versioned in ({}, {"formula_version": 2}):
        both.run(store.succeed, claimed(both, started(both, repository)), report() | versioned)
    assert [past.formula_version for past in both.run(store.history, repository.id)] == [2, 1]
    assert [found.formula_version for found in both.run(store.list_followed, ada)] == [2]


@pytest.mark.parametrize(("status", "left"), [("succeeded", KEPT_ANALYSES), ("failed", KEPT_ANALYSES)])
def test_oldest_analyses_of_each_kind_are_deleted(both: Database, status: str, left: int) -> None:
    repository = new_repository(both)
    moment = datetime.now(UTC)
    many = [
        {
            "repository_id": repository.id,
            "status": kind,
            "requested_at": moment,
            "dispatched_at": moment,
            "finished_at": moment,
        }
        for kind in ("succeeded", "failed")
        for _ in range(KEPT_ANALYSES)
    ]
    both.run(lambda connection: connection.execute(insert(analyses), many))
    lease = claimed(both, started(both, repository))
    both.run(store.succeed, lease, report()) if status == "succeeded" else both.run(store.fail, lease, "no")
    assert count(both, analyses.c.status == "succeeded") == count(both, analyses.c.status == "failed") == left
    assert count(both, analyses.c.id == lease.analysis.id) == 1


def test_repository_without_a_success_has_no_scores() -> None:
    repository = FollowedRepository(1, "https://example.org/a", "a", datetime.now(UTC), None, None)
    assert (repository.scores, repository.formula_version, repository.as_of) == (None, None, None)
