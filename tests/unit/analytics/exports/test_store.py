from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.analytics.exports import store
from app.analytics.exports.store import RETENTION, Cursor, Export
from app.database.engine import Database
from app.database.schema import events, export_parts, exports, users
from app.jobs.leases import LEASE_DURATION, PICKUP_TIMEOUT, NotYet
from tests.unit.analytics.exports.conftest import DAY, NOON, claimed, event, keep, let_time_pass, new_user, ordered

SECOND = timedelta(seconds=1)


def state(database: Database, export: Export) -> dict[str, Any]:
    found = database.run(store.find, export.id)
    assert found is not None
    return found.state


def parts(database: Database) -> list[tuple[int, int]]:
    statement = select(export_parts.c.export_id, export_parts.c.number).order_by(*export_parts.primary_key)
    return [tuple(row) for row in database.run(lambda connection: connection.execute(statement).all())]


def read_all(database: Database, export: Export, limit: int) -> list[str]:
    found: list[str] = []
    after: Cursor | None = None
    while True:
        events, after = database.run(store.read_page, export, after, limit)
        if not events:
            return found
        found += [event.id for event in events]


def test_new_export_is_queued(both: Database, ada: int) -> None:
    export = ordered(both, ada)
    assert export.is_active
    assert export.state == {"id": export.id, "status": "queued", "progress": 0, "rows": 0}
    assert both.run(store.list_by_user, ada) == [export]
    assert both.run(store.find_own, ada, export.id) == export
    assert both.run(store.count_active, ada) == 1


def test_exports_of_others_are_not_listed(both: Database, ada: int) -> None:
    export, bob = ordered(both, ada), new_user(both, "bob@example.org")
    assert both.run(store.list_by_user, bob) == []
    assert both.run(store.find_own, bob, export.id) is None
    assert both.run(store.count_active, bob) == 0


def test_only_one_worker_gets_the_lease(both: Database, ada: int) -> None:
    export = ordered(both, ada)
    claim = claimed(both, export)
    assert (claim.attempt, claim.export.status) == (1, "running")
    late = both.run(store.claim, export.id, "late")
    assert isinstance(late, NotYet)
    assert 0 < late.seconds <= LEASE_DURATION.total_seconds()


def test_lost_lease_changes_nothing(both: Database, ada: int) -> None:
    export = ordered(both, ada)
    first = claimed(both, export)
    let_time_pass(both, export, LEASE_DURATION + SECOND, "leased_until")
    second = claimed(both, export, "other")
    assert not both.run(store.save_progress, first, progress=10, rows=1)
    assert not both.run(store.add_part, first, 0, b"", progress=10, rows=1)
    assert not both.run(store.succeed, first, 1)
    assert not both.run(store.fail, first, "no")
    assert parts(both) == []
    assert both.run(store.add_part, second, 0, b"", progress=50, rows=7)
    assert state(both, export) == {"id": export.id, "status": "running", "progress": 50, "rows": 7}
    assert both.run(store.discard_parts, first, 10) == 0
    assert parts(both) == [(export.id, 0)]


def test_part_written_twice_is_stored_once(both: Database, ada: int) -> None:
    claim = claimed(both, ordered(both, ada))
    for _ in range(2):
        assert both.run(store.add_part, claim, 0, b"x", progress=1, rows=1)
    assert both.run(store.count_parts, claim.job_id) == 1


def test_next_attempt_discards_parts(both: Database, ada: int) -> None:
    export = ordered(both, ada)
    first, other = claimed(both, export), claimed(both, ordered(both, ada))
    for claim in (first, other):
        for number in range(5):
            both.run(store.add_part, claim, number, b"x", progress=50, rows=7)
    let_time_pass(both, export, LEASE_DURATION + SECOND, "leased_until")
    second = claimed(both, export, "other")
    assert state(both, export) == {"id": export.id, "status": "running", "progress": 0, "rows": 0}
    assert [both.run(store.discard_parts, second, 3) for _ in range(3)] == [3, 2, 0]
    assert parts(both) == [(other.job_id, number) for number in range(5)]


def test_finished_export_is_not_active(both: Database, ada: int) -> None:
    good, bad = ordered(both, ada), ordered(both, ada)
    assert both.run(store.succeed, claimed(both, good), 12)
    assert both.run(store.fail, claimed(both, bad), "It went wrong.")
    assert state(both, good) == {"id": good.id, "status": "succeeded", "progress": 100, "rows": 12}
    found = both.run(store.find_own, ada, bad.id)
    assert found is not None
    assert (found.status, found.error, found.is_active) == ("failed", "It went wrong.", False)
    assert both.run(store.count_active, ada) == 0
    assert both.run(store.claim, good.id, "late") is None


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
def test_pages_contain_all_events_in_order(both: Database, ada: int, limit: int) -> None:
    """The start is inclusive, the end exclusive; events may share a time, and IDs of different people may be equal."""
    hour = timedelta(hours=1)
    moments = [NOON - SECOND, NOON, NOON, NOON + SECOND, NOON + hour - SECOND, NOON + hour, NOON + DAY]
    keep(both, *(event(9 - number, occurred_at=moment) for number, moment in enumerate(moments)))
    keep(both, event(8, person="q" * 32))
    export = ordered(both, ada, NOON, NOON + hour)
    expected = ["event-000007", "event-000008", "event-000008", "event-000006", "event-000005"]
    assert read_all(both, export, limit) == expected


def test_events_erased_before_they_are_read_are_missing(both: Database, ada: int) -> None:
    keep(both, *(event(number, occurred_at=NOON + number * SECOND) for number in range(4)))
    export = ordered(both, ada)
    _, after = both.run(store.read_page, export, None, 2)
    both.run(lambda connection: connection.execute(events.delete().where(events.c.event_id == "event-000002")))
    found, _ = both.run(store.read_page, export, after, 2)
    assert [event.id for event in found] == ["event-000003"]


@pytest.mark.parametrize(("length", "expected"), [(timedelta(hours=1), 2), (timedelta(days=30), 3), (SECOND, 2)])
def test_rows_are_estimated_from_rollups(both: Database, ada: int, length: timedelta, expected: int) -> None:
    keep(both, event(1), event(2, name="page_left"), event(3, occurred_at=NOON + DAY), event(4, occurred_at=NOON - DAY))
    assert both.run(store.estimate_rows, ordered(both, ada, NOON, NOON + length)) == expected


def test_estimate_without_events_is_zero(both: Database, ada: int) -> None:
    assert both.run(store.estimate_rows, ordered(both, ada)) == 0


def test_lost_export_is_found(both: Database, ada: int) -> None:
    export = ordered(both, ada)
    assert both.run(store.leases.take_lost, 10) == []
    let_time_pass(both, export, PICKUP_TIMEOUT + SECOND, "dispatched_at")
    assert [both.run(store.leases.take_lost, 10) for _ in range(2)] == [[export.id], []]


def test_expired_export_is_hidden_before_it_is_deleted(both: Database, ada: int) -> None:
    export = ordered(both, ada)
    both.run(store.succeed, claimed(both, export), 0)
    let_time_pass(both, export, RETENTION - timedelta(minutes=1), "requested_at")
    assert both.run(store.find_own, ada, export.id) is not None
    let_time_pass(both, export, timedelta(minutes=2), "requested_at")
    assert both.run(store.find_own, ada, export.id) is None
    assert both.run(store.list_by_user, ada) == []


def test_expired_exports_are_deleted_in_batches(both: Database, ada: int) -> None:
    old, young, failed = ordered(both, ada), ordered(both, ada), ordered(both, ada)
    for export in (old, young, failed):
        claim = claimed(both, export)
        for number in range(5):
            both.run(store.add_part, claim, number, b"x", progress=50, rows=7)
        both.run(store.fail, claim, "no") if export is failed else both.run(store.succeed, claim, 7)
    let_time_pass(both, old, RETENTION + SECOND, "requested_at")
    assert [both.run(store.purge, 4) for _ in range(5)] == [4, 4, 2, 1, 0]
    assert parts(both) == [(young.id, number) for number in range(5)]
    assert [export.id for export in both.run(store.list_by_user, ada)] == [failed.id, young.id]


def test_deleting_an_account_deletes_its_exports(both: Database, ada: int) -> None:
    claim = claimed(both, ordered(both, ada))
    both.run(store.add_part, claim, 0, b"x", progress=50, rows=7)
    both.run(lambda connection: connection.execute(users.delete().where(users.c.id == ada)))
    assert both.run(lambda connection: connection.execute(select(exports.c.id)).all()) == []
    assert parts(both) == []
    assert not both.run(store.add_part, claim, 1, b"x", progress=50, rows=7)
