from __future__ import annotations

import pytest

from app.analytics.exports import file, jobs, store
from app.analytics.exports.jobs import ExportRunner
from app.analytics.exports.service import MAX_ACTIVE, Exports
from app.analytics.exports.store import RETENTION
from app.auth import store as accounts
from app.core.errors import Conflict, Invalid, NotFound, NotSignedIn, TooMany
from app.database.engine import Database
from app.notifications.service import Notifications
from tests.unit.analytics.exports.conftest import DAY, NOON, claimed, event, keep, let_time_pass, new_user, rows_of


@pytest.fixture
def sent() -> list[int]:
    """The IDs of exports that were dispatched."""
    return []


@pytest.fixture
def exports(both: Database, sent: list[int]) -> Exports:
    return Exports(both, sent.append)


@pytest.fixture
def exporter(both: Database, notifications: Notifications) -> ExportRunner:
    return ExportRunner(both, notifications, lambda *_: None)


def test_requested_export_is_dispatched(exports: Exports, ada: int, sent: list[int]) -> None:
    first, second = exports.request(ada, NOON, NOON + DAY), exports.request(ada, NOON, NOON + DAY)
    assert sent == [first.id, second.id]
    assert exports.list(ada) == [second, first]
    assert (first.since, first.until) == (NOON, NOON + DAY)


def test_end_must_be_later_than_the_start(exports: Exports, ada: int) -> None:
    for until in (NOON, NOON - DAY):
        with pytest.raises(Invalid) as refused:
            exports.request(ada, NOON, until)
        assert refused.value.errors == [{"field": "to", "message": "The end must be later than the start."}]


def test_active_exports_of_an_administrator_are_limited(both: Database, exports: Exports, ada: int, sent: list[int]) -> None:
    bob = new_user(both, "bob@example.org")
    ordered = [exports.request(ada, NOON, NOON + DAY) for _ in range(MAX_ACTIVE)]
    with pytest.raises(TooMany, match="3 of your exports are waiting or running"):
        exports.request(ada, NOON, NOON + DAY)
    exports.request(bob, NOON, NOON + DAY)
    both.run(store.fail, claimed(both, ordered[0]), "no")
    exports.request(ada, NOON, NOON + DAY)
    assert len(sent) == MAX_ACTIVE + 2


def test_deleted_account_requests_no_export(both: Database, exports: Exports, ada: int) -> None:
    """The account may be deleted after the request has been authenticated."""
    both.run(accounts.remove, ada)
    with pytest.raises(NotSignedIn):
        exports.request(ada, NOON, NOON + DAY)


def test_download_reads_part_by_part(
    both: Database, exports: Exports, exporter: ExportRunner, ada: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "PART_BYTES", 3000)
    monkeypatch.setattr(jobs, "PAGE_SIZE", 20)
    keep(both, *(event(number) for number in range(100)))
    export = exports.request(ada, NOON, NOON + DAY)
    exporter.run(export.id)
    found = exports.download(ada, export.id)
    parts = list(found.content)
    assert found.export.rows == 100
    assert len(parts) == both.run(store.count_parts, export.id) > 2
    assert [row[0] for row in rows_of(b"".join(parts))] == [f"event-{number:06}" for number in range(100)]


def test_unfinished_export_cannot_be_downloaded(both: Database, exports: Exports, ada: int) -> None:
    export = exports.request(ada, NOON, NOON + DAY)
    with pytest.raises(Conflict, match="This export is not ready yet: 0 % has been written"):
        exports.download(ada, export.id)
    claim = claimed(both, export)
    both.run(store.save_progress, claim, progress=42, rows=7)
    with pytest.raises(Conflict, match="42 %"):
        exports.download(ada, export.id)
    both.run(store.fail, claim, "It went wrong.")
    with pytest.raises(Conflict, match="This export failed: It went wrong"):
        exports.download(ada, export.id)


def test_exports_of_others_and_expired_ones_are_not_found(
    both: Database, exports: Exports, exporter: ExportRunner, ada: int
) -> None:
    bob = new_user(both, "bob@example.org")
    export = exports.request(ada, NOON, NOON + DAY)
    exporter.run(export.id)
    for user_id, export_id in ((bob, export.id), (ada, export.id + 1)):
        with pytest.raises(NotFound):
            exports.download(user_id, export_id)
    let_time_pass(both, export, RETENTION, "requested_at")
    with pytest.raises(NotFound):
        exports.download(ada, export.id)


def test_download_aborts_at_a_missing_part(both: Database, exports: Exports, exporter: ExportRunner, ada: int) -> None:
    keep(both, event())
    export = exports.request(ada, NOON, NOON + DAY)
    exporter.run(export.id)
    found = exports.download(ada, export.id)
    let_time_pass(both, export, RETENTION, "requested_at")
    exporter.purge()
    with pytest.raises(NotFound):
        list(found.content)
