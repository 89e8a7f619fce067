from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from app.database.engine import Database
from app.database.schema import analyses, repositories
from app.jobs.leases import BACKLOG_PICKUP_TIMEOUT, LEASE_DURATION, PICKUP_TIMEOUT
from app.repositories import store
from app.repositories.store import KEPT_ANALYSES, Analysis, Entry, Repository
from tests.unit.repositories.conftest import busy, claimed, let_time_pass, new_repository, new_user, report, started

A_MOMENT = timedelta(seconds=5)


def count(database: Database, *conditions: Any) -> int:
    statement = select(func.count()).select_from(analyses).where(*conditions)
    return database.run(lambda connection: connection.execute(statement).scalar_one())


def row_of(database: Database, analysis: Analysis) -> dict[str, Any]:
    statement = select(analyses).where(analyses.c.id == analysis.id)
    return dict(database.run(lambda connection: connection.execute(statement).mappings().one()))


def set_due(database: Database, repository: Repository, moment: datetime) -> None:
    statement = update(repositories).where(repositories.c.id == repository.id).values(due_at=moment)
    database.run(lambda connection: connection.execute(statement))


def test_one_address_is_one_row(both: Database) -> None:
    first = both.run(store.add, "https://example.org/a", "a")
    assert both.run(store.add, "https://example.org/a", "a") == first
    assert both.run(store.add, "https://example.org/b", "b") != first


def test_to_follow_twice_is_to_follow_once(both: Database) -> None:
    ada = new_user(both)
    repository = new_repository(both, ada, ada)
    assert both.run(store.followers, repository.id) == [ada]
    assert both.run(store.count_followed, ada) == 1
    assert both.run(store.unfollow, ada, repository.id)
    assert not both.run(store.unfollow, ada, repository.id)
    assert not both.run(store.is_followed, ada, repository.id)


def test_a_repository_has_one_live_analysis(both: Database) -> None:
    repository = new_repository(both)
    first, new = both.run(store.start, repository.id)
    assert (new, first.status) == (True, "queued")
    assert both.run(store.start, repository.id) == (first, False)
    assert both.run(store.cancel, first.id)
    second, new = both.run(store.start, repository.id)
    assert new
    assert second.id > first.id


def test_a_start_puts_off_the_daily_one(both: Database) -> None:
    repository = new_repository(both)
    set_due(both, repository, datetime.now(UTC))
    started(both, repository)
    assert both.run(store.due, 10) == []


def test_a_claim_belongs_to_one(both: Database) -> None:
    analysis = started(both, new_repository(both))
    claim = claimed(both, analysis)
    assert (claim.attempt, claim.analysis.status, claim.repository.name) == (1, "running", "flask")
    assert LEASE_DURATION.total_seconds() - 2 < busy(both, analysis).seconds <= LEASE_DURATION.total_seconds()


def test_a_lease_that_has_run_out_is_anybodys(both: Database) -> None:
    analysis = started(both, new_repository(both))
    first = claimed(both, analysis, "first")
    let_time_pass(both, analysis, LEASE_DURATION + A_MOMENT, "leased_until")
    second = claimed(both, analysis, "second")
    assert second.attempt == 2
    assert not both.run(store.leases.renew, first, progress=50, step="Counting")
    assert not both.run(store.succeed, first, report())
    assert not both.run(store.fail, first, "no")
    assert not both.run(store.leases.release, first, attempts=0, delay=timedelta(0), step="")
    assert both.run(store.leases.renew, second, progress=50, step="Counting")
    assert both.run(store.succeed, second, report())
    assert count(both, analyses.c.report.is_not(None)) == 1


def test_a_lease_that_is_renewed_does_not_run_out(both: Database) -> None:
    analysis = started(both, new_repository(both))
    claim = claimed(both, analysis)
    let_time_pass(both, analysis, LEASE_DURATION + A_MOMENT, "leased_until")
    assert both.run(store.leases.renew, claim, progress=40, step="Counting")
    busy(both, analysis)
    row = row_of(both, analysis)
    assert (row["progress"], row["step"]) == (40, "Counting")


def test_what_has_ended_is_not_claimed(both: Database) -> None:
    analysis = started(both, new_repository(both))
    assert both.run(store.succeed, claimed(both, analysis), report())
    assert both.run(store.claim, analysis.id, "late") is None
    assert both.run(store.claim, 4711, "late") is None
    assert not both.run(store.cancel, analysis.id)


def test_the_outcome_stands_in_the_row(both: Database) -> None:
    analysis = started(both, new_repository(both))
    both.run(store.succeed, claimed(both, analysis), report(activity=None, overall=83))
    row = row_of(both, analysis)
    assert (row["status"], row["progress"], row["lease"], row["leased_until"]) == ("succeeded", 100, None, None)
    assert row["as_of"] == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (row["scores"]["activity"], row["scores"]["overall"]) == (None, 83)
    assert both.run(store.report, analysis.id) == row["report"] == report(activity=None, overall=83)


def test_what_is_cancelled_is_lost_to_its_worker(both: Database) -> None:
    analysis = started(both, new_repository(both))
    claim = claimed(both, analysis)
    assert both.run(store.cancel, analysis.id)
    assert not both.run(store.leases.renew, claim, progress=50, step="Counting")
    assert not both.run(store.succeed, claim, report())
    assert row_of(both, analysis)["status"] == "cancelled"


def test_what_is_given_back_waits_again(both: Database) -> None:
    analysis = started(both, new_repository(both))
    assert both.run(store.leases.release, claimed(both, analysis), attempts=0, delay=timedelta(seconds=9), step="Waiting")
    row = row_of(both, analysis)
    assert (row["status"], row["attempts"], row["lease"]) == ("queued", 0, None)
    assert row["dispatched_at"] > row["requested_at"] + timedelta(seconds=8)
    assert claimed(both, analysis, "other").attempt == 1


def test_a_queued_analysis_whose_message_got_lost_is_found_once(both: Database) -> None:
    analysis = started(both, new_repository(both))
    assert both.run(store.leases.take_lost, 10) == []
    let_time_pass(both, analysis, PICKUP_TIMEOUT + A_MOMENT, "requested_at", "dispatched_at")
    assert both.run(store.leases.take_lost, 10) == [analysis.id]
    assert both.run(store.leases.take_lost, 10) == []


def test_one_that_waits_for_long_is_sent_more_rarely(both: Database) -> None:
    analysis = started(both, new_repository(both))
    let_time_pass(both, analysis, BACKLOG_PICKUP_TIMEOUT + A_MOMENT, "requested_at")
    let_time_pass(both, analysis, PICKUP_TIMEOUT + A_MOMENT, "dispatched_at")
    assert both.run(store.leases.take_lost, 10) == []
    let_time_pass(both, analysis, BACKLOG_PICKUP_TIMEOUT, "dispatched_at")
    assert both.run(store.leases.take_lost, 10) == [analysis.id]


def test_a_running_analysis_whose_worker_died_is_found(both: Database) -> None:
    analysis = started(both, new_repository(both))
    claimed(both, analysis)
    let_time_pass(both, analysis, BACKLOG_PICKUP_TIMEOUT, "dispatched_at")
    assert both.run(store.leases.take_lost, 10) == []  # it is being done
    let_time_pass(both, analysis, LEASE_DURATION + A_MOMENT, "leased_until")
    assert both.run(store.leases.take_lost, 10) == [analysis.id]


def test_who_knows_to_be_alone_releases_all(both: Database) -> None:
    running = started(both, new_repository(both))
    queued = started(both, new_repository(both, url="https://example.org/b"))
    ended = started(both, new_repository(both, url="https://example.org/c"))
    claim = claimed(both, running)
    both.run(store.cancel, ended.id)
    assert both.run(store.leases.release_all) == [running.id, queued.id]
    assert not both.run(store.leases.renew, claim, progress=50, step="Counting")
    assert claimed(both, running).attempt == 2


def test_what_is_due_is_taken_once(both: Database) -> None:
    repository = new_repository(both)
    assert both.run(store.due, 10) == []
    assert not both.run(store.take_due, repository.id)
    set_due(both, repository, datetime.now(UTC) - timedelta(days=3))
    assert both.run(store.due, 10) == [repository.id]
    assert both.run(store.take_due, repository.id)
    assert not both.run(store.take_due, repository.id)
    assert both.run(store.due, 10) == []


def test_only_what_nobody_follows_is_removed(both: Database) -> None:
    followed = new_repository(both, new_user(both))
    alone = new_repository(both, url="https://example.org/b")
    started(both, alone)
    assert not both.run(store.remove_unfollowed, followed.id)
    assert both.run(store.remove_unfollowed, alone.id)
    assert count(both) == 0


def test_a_list_shows_the_latest_analysis_and_the_latest_scores(both: Database) -> None:
    ada = new_user(both)
    old, new = new_repository(both, ada), new_repository(both, ada, url="https://example.org/b")
    both.run(store.succeed, claimed(both, started(both, old)), report(overall=70))
    again = started(both, old)
    newest, oldest = both.run(store.entries, ada)
    assert (newest.id, newest.analysis, newest.scores, newest.as_of) == (new.id, None, None, None)
    assert oldest.analysis == again
    assert (oldest.scores or {})["overall"] == 70
    assert oldest.as_of == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert [entry.id for entry in both.run(store.entries, ada, [old.id])] == [old.id]
    assert both.run(store.entries, new_user(both, "bob@example.org")) == []


def test_the_history_is_newest_first(both: Database) -> None:
    repository = new_repository(both)
    ids = []
    for overall in (10, 20):
        analysis = started(both, repository)
        both.run(store.succeed, claimed(both, analysis), report(overall=overall))
        ids.append(analysis.id)
    both.run(store.fail, claimed(both, started(both, repository)), "no")
    found = both.run(store.history, repository.id)
    assert [(past.analysis_id, past.scores["overall"]) for past in found] == [(ids[1], 20), (ids[0], 10)]


@pytest.mark.parametrize(("status", "left"), [("succeeded", KEPT_ANALYSES), ("failed", KEPT_ANALYSES)])
def test_so_many_are_kept_of_each_kind(both: Database, status: str, left: int) -> None:
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
    claim = claimed(both, started(both, repository))
    both.run(store.succeed, claim, report()) if status == "succeeded" else both.run(store.fail, claim, "no")
    assert count(both, analyses.c.status == "succeeded") == count(both, analyses.c.status == "failed") == left
    assert count(both, analyses.c.id == claim.analysis.id) == 1


def test_an_entry_without_a_report_has_no_scores() -> None:
    entry = Entry(1, "https://example.org/a", "a", datetime.now(UTC), None, None)
    assert (entry.scores, entry.as_of) == (None, None)
