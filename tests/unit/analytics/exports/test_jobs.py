from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from app.analytics.exports import file, jobs, store
from app.analytics.exports.file import CsvFile
from app.analytics.exports.jobs import ExportRunner
from app.analytics.exports.store import RETENTION, Export
from app.core.messages import Message
from app.database.engine import Database, DatabaseUnavailable
from app.jobs import runner as job_runner
from app.jobs.leases import LEASE_DURATION, PICKUP_TIMEOUT
from app.jobs.runner import MAX_ATTEMPTS
from app.notifications.service import Notifications
from tests.unit.analytics.exports.conftest import (
    DAY,
    NOON,
    Published,
    claimed,
    content,
    event,
    keep,
    let_time_pass,
    ordered,
    rows_of,
)

EVENTS = 250
SECOND = timedelta(seconds=1)


@pytest.fixture
def sent() -> list[tuple[int, float]]:
    return []


@pytest.fixture
def make_exporter(both: Database, notifications: Notifications, sent: list[tuple[int, float]]) -> Callable[[], ExportRunner]:
    return lambda: ExportRunner(both, notifications, lambda *message: sent.append(message))


@pytest.fixture
def exporter(make_exporter: Callable[[], ExportRunner]) -> ExportRunner:
    return make_exporter()


@pytest.fixture
def export(both: Database, ada: int) -> Export:
    """An export of EVENTS events, one per second; other events lie before and after its range."""
    rows = [event(number, occurred_at=NOON + number * SECOND) for number in range(EVENTS)]
    keep(both, event(800, occurred_at=NOON - SECOND), event(801, occurred_at=NOON + DAY), *rows)
    return ordered(both, ada, NOON, NOON + DAY)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PAGE_SIZE", 20)
    monkeypatch.setattr(file, "PART_BYTES", 3000)


def now(database: Database, export: Export) -> Export:
    found = database.run(store.find, export.id)
    assert found is not None
    return found


def ids(database: Database, export: Export) -> list[str]:
    return [row[0] for row in rows_of(content(database, export.id))]


def told(notifications: Notifications, user_id: int) -> list[tuple[str, str, dict[str, Any]]]:
    return [(item.type, item.title, item.data) for item in notifications.after(user_id, 0).items]


ALL = [f"event-{number:06}" for number in range(EVENTS)]


def test_export_is_written_and_notified_once(
    both: Database, exporter: ExportRunner, export: Export, ada: int, notifications: Notifications, published: Published
) -> None:
    exporter.run(export.id)
    exporter.run(export.id)
    assert ids(both, export) == ALL
    assert both.run(store.count_parts, export.id) > 5
    state = {"id": export.id, "status": "succeeded", "progress": 100, "rows": EVENTS}
    assert now(both, export).state == published.states()[-1] == state
    data = {"export_id": export.id, "rows": EVENTS}
    assert told(notifications, ada) == [("export.ready", "Your export of 250 events is ready", data)]
    assert published.pushed() == ["export.ready"]


def test_export_without_events_has_only_the_header(
    both: Database, exporter: ExportRunner, ada: int, notifications: Notifications
) -> None:
    export = ordered(both, ada)
    exporter.run(export.id)
    assert content(both, export.id) == codecs.BOM_UTF8 + b"id,occurred_at,name,category,properties\r\n"
    assert [title for _, title, _ in told(notifications, ada)] == ["Your export of 0 events is ready"]


def test_file_contains_no_pseudonym(both: Database, exporter: ExportRunner, ada: int) -> None:
    keep(both, event(1, person="secret-pseudonym"))
    export = ordered(both, ada)
    exporter.run(export.id)
    assert ids(both, export) == ["event-000001"]
    assert b"pseudonym" not in content(both, export.id)


def test_progress_is_published(
    both: Database, exporter: ExportRunner, export: Export, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PROGRESS_INTERVAL_SECONDS", 0.0)
    exporter.run(export.id)
    states = published.states()
    assert [state["rows"] for state in states] == [*range(20, EVENTS, 20), EVENTS, EVENTS]
    assert [state["progress"] for state in states] == [*(100 * rows // EVENTS for rows in range(20, EVENTS, 20)), 99, 100]


def test_progress_is_published_at_most_per_part_and_interval(
    both: Database, exporter: ExportRunner, export: Export, published: Published
) -> None:
    exporter.run(export.id)
    assert len(published.states()) <= both.run(store.count_parts, export.id) + 3


def test_parts_of_a_killed_worker_are_discarded(
    both: Database, exporter: ExportRunner, export: Export, ada: int, notifications: Notifications
) -> None:
    dead = claimed(both, export, "killed")
    half = CsvFile()
    for number in range(200):
        both.run(store.add_part, dead, number, half.take_part(), progress=50, rows=7)
    let_time_pass(both, export, LEASE_DURATION + SECOND, "leased_until")
    exporter.run(export.id)
    assert ids(both, export) == ALL
    assert len(told(notifications, ada)) == 1


def test_message_for_a_leased_job_is_retried_when_the_lease_ends(
    both: Database, exporter: ExportRunner, export: Export, sent: list[tuple[int, float]]
) -> None:
    claimed(both, export)
    exporter.run(export.id)
    ((again, delay),) = sent
    assert again == export.id
    assert LEASE_DURATION.total_seconds() - 2 < delay <= LEASE_DURATION.total_seconds()


def test_job_that_kills_its_worker_fails(
    both: Database, exporter: ExportRunner, export: Export, ada: int, notifications: Notifications
) -> None:
    for number in range(MAX_ATTEMPTS):
        claimed(both, export, f"killed-{number}")
        let_time_pass(both, export, LEASE_DURATION + SECOND, "leased_until")
    exporter.run(export.id)
    error = "It was started 3 times and interrupted each time."
    assert (now(both, export).status, now(both, export).error) == ("failed", error)
    assert told(notifications, ada) == [("message", "Your export of events failed", {"error": error})]


def test_stopping_worker_releases_the_job_without_an_attempt(
    both: Database,
    make_exporter: Callable[[], ExportRunner],
    export: Export,
    sent: list[tuple[int, float]],
    published: Published,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = make_exporter()

    def stop(messages: Sequence[Message]) -> None:
        published.add(messages)
        first.stop()

    monkeypatch.setattr(first._notifications, "_publish", stop)
    first.run(export.id)
    assert now(both, export).state == {"id": export.id, "status": "queued", "progress": 0, "rows": 0}
    assert sent == [(export.id, 0)]
    assert [state["status"] for state in published.states()] == ["running", "queued"]
    make_exporter().run(export.id)
    assert (now(both, export).status, ids(both, export)) == ("succeeded", ALL)


def test_runner_that_lost_its_lease_changes_nothing(
    both: Database,
    exporter: ExportRunner,
    export: Export,
    ada: int,
    notifications: Notifications,
    published: Published,
    sent: list[tuple[int, float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lose(messages: Sequence[Message]) -> None:
        if not published:
            let_time_pass(both, export, LEASE_DURATION + SECOND, "leased_until")
            claimed(both, export, "other")
        published.add(messages)

    monkeypatch.setattr(exporter._notifications, "_publish", lose)
    exporter.run(export.id)
    assert len(published) == 1
    assert (now(both, export).status, told(notifications, ada), sent) == ("running", [], [])


class Outage:
    """Makes the database unavailable for a number of calls."""

    def __init__(self, database: Database, count: float) -> None:
        self.left = count
        self._run = database.run_within

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.left > 0:
            self.left -= 1
            raise DatabaseUnavailable
        return self._run(*arguments, **options)


def begin_outage(database: Database, count: float, monkeypatch: pytest.MonkeyPatch, exporter: ExportRunner) -> Outage:
    """Start the outage when progress is published for the first time."""
    outage = Outage(database, 0)
    left = [count]

    def tell(*_: Any) -> None:
        outage.left = left.pop() if left else 0

    monkeypatch.setattr(exporter._notifications, "_publish", tell)
    monkeypatch.setattr(database, "run_within", outage)
    return outage


def test_short_database_outage_is_retried(
    both: Database, exporter: ExportRunner, export: Export, sent: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "DATABASE_RETRY_SECONDS", 0.0)
    outage = begin_outage(both, 3, monkeypatch, exporter)
    exporter.run(export.id)
    assert (outage.left, sent) == (0, [])
    assert (now(both, export).status, ids(both, export)) == ("succeeded", ALL)


def test_long_database_outage_uses_an_attempt(
    both: Database, exporter: ExportRunner, export: Export, sent: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LEASE_DURATION", timedelta(0))
    begin_outage(both, 1, monkeypatch, exporter)
    exporter.run(export.id)
    assert (now(both, export).status, sent) == ("queued", [(export.id, 3.0)])
    let_time_pass(both, export, timedelta(seconds=3), "dispatched_at")
    exporter.run(export.id)
    assert (now(both, export).status, ids(both, export)) == ("succeeded", ALL)


def test_third_long_outage_fails_the_job(
    both: Database,
    exporter: ExportRunner,
    export: Export,
    ada: int,
    notifications: Notifications,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "LEASE_DURATION", timedelta(0))
    monkeypatch.setattr(job_runner, "DATABASE_RETRY_SECONDS", 0.0)
    for _ in range(3):
        begin_outage(both, 1, monkeypatch, exporter)
        exporter.run(export.id)
        let_time_pass(both, export, timedelta(seconds=10), "dispatched_at")
    assert (now(both, export).status, now(both, export).error) == ("failed", "The database did not answer for a while.")
    assert [kind for kind, _, _ in told(notifications, ada)] == ["message"]
    exporter.purge()
    assert both.run(store.count_parts, export.id) == 0


def test_lost_message_is_sent_again(
    both: Database, exporter: ExportRunner, export: Export, sent: list[tuple[int, float]]
) -> None:
    exporter.requeue_lost()
    assert sent == []
    let_time_pass(both, export, PICKUP_TIMEOUT + SECOND, "dispatched_at")
    exporter.requeue_lost()
    exporter.requeue_lost()
    assert sent == [(export.id, 0)]


def test_unfinished_jobs_are_resumed_at_the_start(
    both: Database, exporter: ExportRunner, export: Export, sent: list[tuple[int, float]]
) -> None:
    claim = claimed(both, export)
    both.run(store.save_progress, claim, progress=50, rows=7)
    exporter.requeue_all()
    assert sent == [(export.id, 0)]
    assert now(both, export).state == {"id": export.id, "status": "queued", "progress": 0, "rows": 0}


def test_purge_deletes_all_expired_exports(
    both: Database, exporter: ExportRunner, export: Export, ada: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "DELETE_BATCH", 2)
    exporter.run(export.id)
    young = ordered(both, ada)
    let_time_pass(both, export, RETENTION + SECOND, "requested_at")
    exporter.purge()
    assert both.run(store.find, export.id) is None
    assert both.run(store.count_parts, export.id) == 0
    assert both.run(store.list_by_user, ada) == [young]
