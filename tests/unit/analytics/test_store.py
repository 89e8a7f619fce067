from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.event import listen

from app.analytics import store
from app.analytics.events import Event
from app.analytics.person import AnalyticsAccount, ConsentState, HashedVisitor, Person
from app.analytics.store import IN_FLIGHT, StoreResult
from app.auth import store as accounts
from app.core.timestamps import iso
from app.database.engine import Database
from app.database.locks import lock_user_for_deletion
from app.database.schema import events, people, rollups, visitor_keys, visits
from tests.unit.analytics.conftest import (
    LONG_AGO,
    NOW,
    VISITOR,
    Stored,
    accepted,
    all_stored,
    counted_visitors,
    event,
    new_account,
)


def consent_of(database: Database, person: Person) -> ConsentState:
    consent = database.run(store.consent, person)
    assert consent is not None
    return consent


def keep(database: Database, consent: ConsentState, *batch: Event) -> StoreResult:
    return database.run(store.store_events, accepted(consent, *batch), LONG_AGO)


def opted_out(database: Database, person: Person) -> datetime:
    consent = database.run(store.opt_out, person)
    assert consent is not None
    assert not consent.is_granted
    assert consent.opted_out_at is not None
    return consent.opted_out_at


def let_the_way_end(database: Database) -> None:
    """Let the period end in which a visitor's opt-out covers requests without the cookie."""

    def move(connection: Connection) -> None:
        for row in connection.execute(select(people).where(people.c.fenced_at.is_not(None))).all():
            earlier = {"fenced_at": row.fenced_at - IN_FLIGHT}
            connection.execute(update(people).where(people.c.pseudonym == row.pseudonym).values(earlier))

    database.run(move)


class TestStanding:
    def test_new_person_has_consent(self, both: Database, person: Person) -> None:
        consent = consent_of(both, person)
        assert (consent.version, consent.is_granted, consent.opted_out_at) == (0, True, None)
        assert consent == consent_of(both, person)

    def test_accounts_have_random_pseudonyms(self, both: Database) -> None:
        ada, bob = (consent_of(both, new_account(both, email)).pseudonym for email in ("ada@example.org", "bob@example.org"))
        assert ada[0] == bob[0] == "a"
        assert ada != bob

    def test_consent_is_found_without_a_write(self, both: Database) -> None:
        """So it can be read on a read-only database."""
        person, unknown = new_account(both), new_account(both, "bob@example.org")
        consent = consent_of(both, person)
        statements: list[str] = []
        listen(both.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
        assert both.run(store.consent, person) == both.run(store.find_consent, person) == consent
        assert both.run(store.find_consent, unknown) is None
        assert [text for text in statements if not text.startswith(("SELECT", "BEGIN"))] == []

    def test_deleted_account_has_no_consent(self, both: Database) -> None:
        gone = AnalyticsAccount(1_000_000)
        assert both.run(store.consent, gone) is None
        assert both.run(store.opt_out, gone) is None
        assert both.run(store.opt_in, gone) is None
        assert both.run(store.erase, gone) == (0, None)


class TestChoice:
    def test_opt_out_is_stored(self, both: Database) -> None:
        ada = new_account(both)
        opted_out_at = opted_out(both, ada)
        consent = consent_of(both, ada)
        assert (consent.is_granted, consent.opted_out_at, consent.version) == (False, opted_out_at, 1)
        assert opted_out_at.microsecond % 1000 == 0

    def test_repeated_opt_out_keeps_the_first_time(self, both: Database) -> None:
        ada = new_account(both)
        assert opted_out(both, ada) == opted_out(both, ada)
        assert consent_of(both, ada).version == 1

    def test_opt_out_of_a_visitor_covers_requests_in_flight(self, both: Database) -> None:
        opted_out(both, VISITOR)
        assert not consent_of(both, VISITOR).is_granted
        let_the_way_end(both)
        consent = consent_of(both, VISITOR)
        assert (consent.is_granted, consent.version) == (True, 1)

    def test_opt_in_drops_events_accepted_before(self, both: Database, person: Person, stored: Stored) -> None:
        before = consent_of(both, person)
        opted_out(both, person)
        both.run(store.opt_in, person)
        after = consent_of(both, person)
        assert (after.is_granted, after.opted_out_at, after.version) == (True, None, 2)
        assert keep(both, before, event()) == StoreResult(stored=0, dropped=1)
        assert all_stored(keep(both, after, event())) == stored() == 1

    def test_opt_in_without_opt_out_changes_nothing(self, both: Database, person: Person) -> None:
        before = consent_of(both, person)
        both.run(store.opt_in, person)
        assert consent_of(both, person) == before


class TestKeeping:
    def test_events_are_stored_and_counted(self, both: Database, person: Person, stored: Stored) -> None:
        batch = [event("page_viewed", path="/compare?ids=1"), event(at=NOW - timedelta(days=2)), event()]
        assert all_stored(keep(both, consent_of(both, person), *batch)) == stored() == 3
        assert counted_visitors(both) == {"day": [1, 1], "hour": [1, 1]}

    def test_duplicate_event_is_stored_once(self, both: Database, person: Person, stored: Stored) -> None:
        consent, twice = consent_of(both, person), event()
        assert keep(both, consent, twice, event(), twice).stored == 2
        assert keep(both, consent, twice, event()) == StoreResult(stored=1, dropped=0)
        assert stored() == 3

    def test_same_id_of_two_people_is_two_events(self, both: Database, stored: Stored) -> None:
        for person in (new_account(both), VISITOR):
            assert all_stored(keep(both, consent_of(both, person), event(event_id="1"))) == 1
        assert stored() == 2
        assert counted_visitors(both) == {"day": [2], "hour": [2]}

    def test_nothing_is_stored_after_an_opt_out(self, both: Database, person: Person, stored: Stored) -> None:
        before = consent_of(both, person)
        opted_out(both, person)
        assert keep(both, before, event(), event()) == StoreResult(stored=0, dropped=2)
        assert stored() == 0

    def test_opt_out_keeps_stored_events(self, both: Database, person: Person, stored: Stored) -> None:
        keep(both, consent_of(both, person), event())
        opted_out(both, person)
        assert stored() == 1

    def test_no_event_is_dated_after_it_was_stored(self, both: Database, person: Person) -> None:
        """The time of an opt-out comes from the same clock of the database, whatever the clocks of instances say."""
        keep(both, consent_of(both, person), event(at=NOW + timedelta(minutes=5)))
        opted_out_at = opted_out(both, person)
        times = both.run(lambda connection: connection.execute(select(events.c.occurred_at)).scalars().all())
        assert [moment <= opted_out_at for moment in times] == [True]

    def test_expired_event_is_not_stored(self, both: Database, person: Person, stored: Stored) -> None:
        assert keep(both, consent_of(both, person), event(at=LONG_AGO - timedelta(seconds=1))).dropped == 1
        assert stored() == 0

    def test_empty_batch_stores_nothing(self, both: Database) -> None:
        assert both.run(store.store_events, [], LONG_AGO) == StoreResult()


@contextmanager
def under_way(database: Database, work: Callable[[Connection], object]) -> Iterator[None]:
    """Keep a transaction open."""
    began, end = threading.Event(), threading.Event()

    def change(connection: Connection) -> None:
        work(connection)
        began.set()
        assert end.wait(10)

    changer = threading.Thread(target=database.run_within, args=(10, change))
    changer.start()
    assert began.wait(10)
    try:
        yield
    finally:
        end.set()
        changer.join()


class TestTogether:
    """Concurrent transactions, on PostgreSQL only: SQLite runs one at a time."""

    @pytest.fixture
    def both(self, request: pytest.FixtureRequest) -> Iterator[Database]:
        url = request.getfixturevalue("database_url").replace("postgresql:", "postgresql+psycopg2:")
        database = Database(url, 10, "test")
        yield database
        database.close()

    def test_locked_person_does_not_delay_others(self, both: Database, stored: Stored) -> None:
        ada, bob = (new_account(both, email) for email in ("ada@example.org", "bob@example.org"))
        batch = [*accepted(consent_of(both, ada), event(), event()), *accepted(consent_of(both, bob), event())]
        with under_way(both, lambda connection: store.opt_out(connection, ada)):
            outcome = both.run(store.store_events, batch, LONG_AGO)
            assert (outcome.stored, outcome.dropped, outcome.deferred) == (1, 0, batch[:2])
        assert both.run(store.store_events, outcome.deferred, LONG_AGO) == StoreResult(stored=0, dropped=2)
        assert stored() == 1

    def test_retention_does_not_wait_for_an_erasure(self, both: Database, stored: Stored) -> None:
        """Waiting could deadlock."""
        oldest = NOW - timedelta(days=30)
        for person in (ada := new_account(both), VISITOR):
            keep(both, consent_of(both, person), event(person.key, at=oldest - timedelta(days=1)), event(person.key))
        with under_way(both, lambda connection: store.erase(connection, ada)):
            assert both.run(store.purge_batch, oldest, 10) == 1
        both.run(store.purge_batch, oldest, 10)
        assert stored() == 1
        assert counted_visitors(both)["hour"] == [1]

    def test_account_being_deleted_gets_no_new_row(self, both: Database) -> None:
        ada, found = new_account(both), list[ConsentState | None]()

        def delete_account(connection: Connection) -> None:
            lock_user_for_deletion(connection, ada.user_id)
            store.erase(connection, ada)
            accounts.remove(connection, ada.user_id)

        with under_way(both, delete_account):
            looker = threading.Thread(target=lambda: found.append(both.run(store.consent, ada)))
            looker.start()
            looker.join(0.2)
            assert found == []
        looker.join()
        assert found == [None]

    def test_opt_out_waits_for_a_batch_being_stored(self, both: Database) -> None:
        ada = new_account(both)
        consent, storing, go_on = consent_of(both, ada), threading.Event(), threading.Event()

        def hold(connection: Connection) -> None:
            store.store_events(connection, accepted(consent, event()), LONG_AGO)
            storing.set()
            assert go_on.wait(10)

        storer = threading.Thread(target=both.run_within, args=(10, hold))
        storer.start()
        assert storing.wait(10)
        fences: list[datetime] = []
        changer = threading.Thread(target=lambda: fences.append(opted_out(both, ada)))
        changer.start()
        changer.join(0.2)
        assert fences == []
        go_on.set()
        storer.join()
        changer.join()
        (stored_at,) = both.run(lambda connection: connection.execute(select(events.c.occurred_at)).scalars().all())
        assert stored_at <= fences[0]

    def test_concurrent_batches_count_correctly(self, both: Database, stored: Stored) -> None:
        consents = [consent_of(both, new_account(both, f"user-{number}@example.org")) for number in range(5)]
        failures: list[Exception] = []

        def store_some(number: int) -> None:
            mine = accepted(consents[number % 5], *(event(f"kind-{kind}") for kind in range(5)))
            waiting = mine * 2  # each twice
            try:
                while waiting:
                    waiting = both.run_within(10, store.store_events, waiting, LONG_AGO).deferred
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=store_some, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert stored() == 100
        assert counted_visitors(both) == {"day": [5], "hour": [5]}


class TestErasing:
    def test_erasure_deletes_only_the_events_of_the_person(self, both: Database, person: Person, stored: Stored) -> None:
        other = HashedVisitor("v" + "1" * 31)
        keep(both, consent_of(both, other), event(), event(at=NOW - timedelta(days=1)))
        keep(both, consent_of(both, person), event(), event("page_viewed", path="/"), event(at=NOW - timedelta(days=9)))
        count, consent = both.run(store.erase, person)
        assert (count, stored()) == (3, 2)
        assert consent is not None
        assert counted_visitors(both) == {"day": [1, 1], "hour": [1, 1]}

    def test_erasure_does_not_run_a_statement_per_name(self, both: Database, stored: Stored) -> None:
        """Clients choose the names of events: one statement per name could exceed the timeout."""
        ada = new_account(both)
        batch = accepted(consent_of(both, ada), *(event(f"kind-{number}") for number in range(600)))
        assert all_stored(both.run_within(10, store.store_events, batch, LONG_AGO)) == 600
        statements: list[bool] = []  # whether it is carried out row by row, which costs only PostgreSQL a round trip each
        listen(both.engine, "before_cursor_execute", lambda *call: statements.append(call[-1]))
        count, _ = both.run_within(10, store.erase, ada)
        assert (count, stored()) == (600, 0)
        assert counted_visitors(both) == {}
        assert not (any(statements) and both.engine.dialect.name == "postgresql")
        assert len(statements) < 30

    def test_erasure_deletes_in_batches(self, both: Database, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store, "ERASE_BATCH", 3)
        keep(both, consent_of(both, VISITOR), *(event() for _ in range(10)))
        assert both.run(store.erase, VISITOR)[0] == 10
        assert stored() == 0

    def test_erasure_drops_queued_events(self, both: Database, person: Person, stored: Stored) -> None:
        before = consent_of(both, person)
        keep(both, before, event(event_id="again"))
        both.run(store.erase, person)
        assert keep(both, before, event(), event(event_id="again")) == StoreResult(stored=0, dropped=2)
        assert all_stored(keep(both, consent_of(both, person), event())) == stored() == 1

    def test_erasure_replaces_the_pseudonym_of_an_account(self, both: Database) -> None:
        ada = new_account(both)
        before = consent_of(both, ada)
        both.run(store.erase, ada)
        assert consent_of(both, ada).pseudonym != before.pseudonym

    def test_erasure_keeps_the_opt_out(self, both: Database) -> None:
        ada = new_account(both)
        opted_out_at = opted_out(both, ada)
        both.run(store.erase, ada)
        consent = consent_of(both, ada)
        assert (consent.is_granted, consent.opted_out_at) == (False, opted_out_at)

    def test_deleting_an_account_deletes_its_analytics(self, both: Database, stored: Stored) -> None:
        ada = new_account(both)
        before = consent_of(both, ada)
        keep(both, before, event())

        def delete_account(connection: Connection) -> None:
            lock_user_for_deletion(connection, ada.user_id)
            store.erase(connection, ada)
            accounts.remove(connection, ada.user_id)

        both.run(delete_account)
        assert stored() == 0
        assert both.run(lambda connection: connection.execute(select(people)).all()) == []
        assert keep(both, before, event()) == StoreResult(stored=0, dropped=1)


class TestKeys:
    def test_key_is_the_same_for_a_day(self, both: Database) -> None:
        first = both.run(store.visitor_key, "2026-11-26")
        assert both.run(store.visitor_key, "2026-11-26") == first
        assert len(first) == 32

    def test_key_of_yesterday_is_deleted(self, both: Database) -> None:
        yesterday = both.run(store.visitor_key, "2026-11-25")
        today = both.run(store.visitor_key, "2026-11-26")
        assert today != yesterday
        assert both.run(lambda connection: connection.execute(select(visitor_keys.c.day)).scalars().all()) == ["2026-11-26"]
        assert both.run(store.visitor_key, "2026-11-25") != yesterday


class TestRetention:
    def test_purge_deletes_in_batches(self, both: Database, person: Person, stored: Stored) -> None:
        oldest = NOW - timedelta(days=30)
        old = [event(at=oldest - timedelta(minutes=minutes)) for minutes in (1, 50, 3000)]
        keep(both, consent_of(both, person), *old, event(at=oldest), event())
        assert [both.run(store.purge_batch, oldest, 2) for _ in range(3)] == [2, 1, 0]
        assert stored() == 2
        times = both.run(lambda connection: connection.execute(select(events.c.occurred_at)).scalars().all())
        assert sorted(map(iso, times)) == [iso(oldest), iso(NOW)]

    @pytest.mark.parametrize("limit", [2, 100])
    def test_visitors_are_those_of_the_remaining_events(self, both: Database, stored: Stored, limit: int) -> None:
        """Also of the hour and the day of which only a part is deleted."""
        oldest = (NOW - timedelta(days=30)).replace(hour=12, minute=30, second=0)
        for number, minutes in enumerate((-2000, -100, -20, -10, -5, 5)):
            visitor = HashedVisitor(f"v{number:031}")
            keep(both, consent_of(both, visitor), event(at=oldest + timedelta(minutes=minutes)))
        stays = HashedVisitor("v" + "9" * 31)
        times = oldest - timedelta(minutes=1), oldest + timedelta(minutes=1)
        keep(both, consent_of(both, stays), *(event(at=at) for at in times))
        while both.run(store.purge_batch, oldest, limit) == limit:
            assert counted_visitors(both)
        assert stored() == 2
        assert counted_visitors(both) == {"day": [2], "hour": [2]}

    def test_each_batch_is_limited(self, both: Database) -> None:
        """A lower retention period leaves any number of old rows of each kind."""
        start, rows = datetime(2026, 3, 4, tzinfo=UTC), range(50)
        weeks_ago = NOW - timedelta(days=8)

        def fill(connection: Connection) -> None:
            person = {"opted_out": False, "version": 0, "created_at": weeks_ago}
            connection.execute(insert(people), [{"pseudonym": f"v{row}", **person} for row in rows])
            connection.execute(insert(visits), [{"grain": "day", "start": start, "person": f"v{row}"} for row in rows])
            kind = {"name": "", "category": "", "events": 1}
            connection.execute(insert(rollups), [{"grain": "day", "start": start, "path": f"/{row}", **kind} for row in rows])

        def count(connection: Connection) -> list[int]:
            tables = people, visits, rollups
            return [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]

        both.run(fill)
        assert both.run(store.purge_batch, NOW, 10) == 10
        assert both.run(count) == [40, 10, 10]
        assert both.run(store.purge_batch, NOW, 10) == 10
        assert both.run(count) == [30, 0, 0]
        while both.run(store.purge_batch, NOW, 10) == 10:
            pass
        assert both.run(count) == [0, 0, 0]

    def test_count_that_reaches_zero_is_deleted(self, both: Database, stored: Stored) -> None:
        """Only the counts of deleted events are looked at: a search for all empty counts would read the whole table."""
        keep(both, consent_of(both, VISITOR), event())
        statements: list[str] = []
        listen(both.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
        both.run(store.erase, VISITOR)
        emptied = [text for text in statements if "<= " in text and text.startswith("DELETE FROM analytics_rollups")]
        assert len(emptied) == 1
        assert " IN (" in emptied[0]
        assert stored() == 0

    def test_purge_deletes_old_visitor_rows(self, both: Database) -> None:
        ada = new_account(both)
        for person in (ada, VISITOR):
            keep(both, consent_of(both, person), event())
        weeks_ago = {"created_at": NOW - timedelta(days=8)}
        both.run(lambda connection: connection.execute(update(people).values(weeks_ago)))
        both.run(store.purge_batch, LONG_AGO, 10)
        left = both.run(lambda connection: connection.execute(select(people.c.user_id)).scalars().all())
        assert left == [ada.user_id]

    def test_purge_deletes_old_keys(self, both: Database) -> None:
        both.run(store.visitor_key, "2026-01-01")
        both.run(store.purge_batch, LONG_AGO, 10)
        assert both.run(lambda connection: connection.execute(select(visitor_keys)).all()) == []
