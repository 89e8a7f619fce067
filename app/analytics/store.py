"""People, their consent and their events in SQL. Each function runs in a transaction, by `Database.run`.

Storing a person's events and changing that person's consent lock the same row. The row's version tells under which consent
an event was accepted: an event with an older version is not stored.
"""

import logging
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, literal, select, update

from app.analytics import rollups
from app.analytics.events import Event
from app.analytics.person import AnalyticsAccount, ConsentState, Person, is_visitor, new_pseudonym
from app.analytics.rollups import CountedEvent
from app.core.messages import ANALYTICS_ROOM, Message, Publish
from app.database.batches import delete_batch, is_in_batch, run_batches
from app.database.clock import now
from app.database.engine import Database
from app.database.schema import events, people, users, visitor_keys
from app.database.upsert import insert_into

log = logging.getLogger(__name__)

KEY_BYTES = 32
ERASE_BATCH = 1000  # events
# The cookie in a visitor's browser records the opt-out. Requests that were sent before it arrived come without the cookie.
IN_FLIGHT = timedelta(seconds=2)
VISITOR_ROW_RETENTION = timedelta(days=7)  # by then none of the visitor's events can still be queued
PURGE_SECONDS, PURGE_BATCH = 10.0, 2000
COUNTS_PER_EVENT = 4  # a batch of events leaves at most this many counts of a kind to delete for each event


@dataclass(frozen=True)
class AcceptedEvent:
    """An event with the version of the person's row at the time it was accepted."""

    pseudonym: str
    version: int
    event: Event


@dataclass(frozen=True)
class StoreResult:
    """The result for one batch. `deferred` are events of people whose rows another transaction has locked."""

    stored: int = 0
    dropped: int = 0
    deferred: list[AcceptedEvent] = field(default_factory=list)


class EventStore:
    """Stores accepted events, and announces their number to the live counters."""

    def __init__(self, database: Database, publish: Publish, retention_days: int) -> None:
        self._database = database
        self._publish = publish
        self._retention = timedelta(days=retention_days)

    def store(self, batch: Sequence[AcceptedEvent], timeout_seconds: float) -> list[AcceptedEvent]:
        """Store the batch in one transaction and return the events to try again soon. Raises Unavailable."""
        oldest = datetime.now(UTC) - self._retention
        result = self._database.run_within(timeout_seconds, store_events, batch, oldest)
        log.debug("stored %d events, dropped %d", result.stored, result.dropped)
        if result.stored:
            self._publish([Message(ANALYTICS_ROOM, "events_stored", {"count": result.stored})])
        return result.deferred


def purge_events(database: Database, retention_days: int) -> bool:
    """Delete what is older than the retention period for a while. Return whether the next call has to continue."""
    oldest = datetime.now(UTC) - timedelta(days=retention_days)
    return run_batches(lambda: database.run_within(PURGE_SECONDS, purge_batch, oldest, PURGE_BATCH) == PURGE_BATCH)


# Consent.


def consent(connection: Connection, person: Person) -> ConsentState | None:
    """Return the person's consent, or None for a deleted account. Creates the row of an account."""
    if isinstance(person, AnalyticsAccount):
        found = find_consent(connection, person)
        if found is None:
            _add_account(connection, person.user_id)
        return found or find_consent(connection, person)
    row = _row(connection, person)
    if row is None:
        return ConsentState(person.pseudonym, version=0, is_granted=True)
    is_in_flight = row.fenced_at is not None and now(connection) < row.fenced_at + IN_FLIGHT
    return ConsentState(row.pseudonym, row.version, is_granted=not is_in_flight, opted_out_at=row.fenced_at)


def find_consent(connection: Connection, account: AnalyticsAccount) -> ConsentState | None:
    """Return the stored consent of an account, or None if there is none yet."""
    row = _row(connection, account)
    return _consent(row) if row else None


def opt_out(connection: Connection, person: Person) -> ConsentState | None:
    """Stop storing the person's events when this transaction commits. Repeated opt-outs keep the time of the first."""
    row = _lock_row(connection, person)
    if row is None or row.opted_out:
        return _consent(row) if row else None
    opted_out_at = _round_up(now(connection))
    return _change(connection, row, opted_out=isinstance(person, AnalyticsAccount), fenced_at=opted_out_at)


def opt_in(connection: Connection, person: Person) -> ConsentState | None:
    """Store the person's events again: those accepted, and by their own timestamps dated, from now on."""
    row = _lock_row(connection, person)
    if row is None or row.fenced_at is None:
        return _consent(row) if row else None
    counted_since = _round_down(now(connection))
    return _change(connection, row, opted_out=False, fenced_at=None, counted_since=counted_since)


def erase(connection: Connection, person: Person) -> tuple[int, ConsentState | None]:
    """Delete all stored events of the person, invalidate the queued ones, and give an account a new pseudonym.

    Returns the number of deleted events and the new consent; `(0, None)` for a deleted account.
    """
    row = _lock_row(connection, person)
    if row is None:
        return 0, None
    count = rollups.subtract(connection, _delete_events(connection, row.pseudonym))
    rollups.remove_person(connection, row.pseudonym)
    renamed = {"pseudonym": new_pseudonym()} if isinstance(person, AnalyticsAccount) else {}
    return count, _change(connection, row, **renamed)


def _delete_events(connection: Connection, pseudonym: str) -> Iterator[CountedEvent]:
    """Delete in batches: one large result would block the event loop for seconds."""
    batch = select(events.c.event_id).where(events.c.person == pseudonym).limit(ERASE_BATCH)
    condition = (events.c.person == pseudonym) & events.c.event_id.in_(batch)
    while deleted := connection.execute(delete(events).where(condition).returning(*_COUNTED)).all():
        yield from (CountedEvent(*row) for row in deleted)


_COUNTED = (events.c.person, events.c.name, events.c.category, events.c.path, events.c.occurred_at)


def _add_account(connection: Connection, user_id: int) -> None:
    account = select(
        literal(new_pseudonym()), users.c.id, literal(False), literal(0), literal(now(connection), people.c.created_at.type)
    ).where(users.c.id == user_id)
    is_missing = ~select(people.c.user_id).where(people.c.user_id == user_id).exists()
    names = ["pseudonym", "user_id", "opted_out", "version", "created_at"]
    # The lock waits for a transaction that is deleting the account.
    locked = account.where(is_missing).with_for_update(read=True, key_share=True, of=users)
    statement = insert_into(connection, people).from_select(names, locked)
    connection.execute(statement.on_conflict_do_nothing())


def _add_visitors(connection: Connection, pseudonyms: Iterable[str]) -> None:
    created_at = now(connection)
    rows = [{"pseudonym": name, "opted_out": False, "version": 0, "created_at": created_at} for name in sorted(pseudonyms)]
    if rows:
        connection.execute(insert_into(connection, people).values(rows).on_conflict_do_nothing())


def _row(connection: Connection, person: Person, *, lock: bool = False) -> Row[Any] | None:
    if isinstance(person, AnalyticsAccount):
        statement = select(people).where(people.c.user_id == person.user_id)
    else:
        statement = select(people).where(people.c.pseudonym == person.pseudonym)
    return connection.execute(statement.with_for_update(key_share=True) if lock else statement).first()


def _lock_row(connection: Connection, person: Person) -> Row[Any] | None:
    """Create the row if necessary, and lock it."""
    if isinstance(person, AnalyticsAccount):
        _add_account(connection, person.user_id)
    else:
        _add_visitors(connection, [person.pseudonym])
    return _row(connection, person, lock=True)


def _change(connection: Connection, row: Row[Any], **values: Any) -> ConsentState:
    condition = people.c.pseudonym == row.pseudonym
    changed = update(people).where(condition).values(version=row.version + 1, **values).returning(*people.c)
    return _consent(connection.execute(changed).one())


def _consent(row: Row[Any]) -> ConsentState:
    """The consent right after a change. A visitor's opt-out ends after IN_FLIGHT, see `consent`."""
    is_granted = not row.opted_out and not (is_visitor(row.pseudonym) and row.fenced_at is not None)
    return ConsentState(row.pseudonym, row.version, is_granted, row.fenced_at)


def _round_up(timestamp: datetime) -> datetime:
    """Round to milliseconds, the precision of timestamps in the API."""
    return timestamp + timedelta(microseconds=-timestamp.microsecond % 1000)


def _round_down(timestamp: datetime) -> datetime:
    return timestamp.replace(microsecond=timestamp.microsecond // 1000 * 1000)


# Events.


def store_events(connection: Connection, batch: Sequence[AcceptedEvent], oldest: datetime) -> StoreResult:
    """Store each event once, unless the person's consent has changed or the event is older than `oldest`."""
    pseudonyms = {accepted.pseudonym for accepted in batch}
    _add_visitors(connection, filter(is_visitor, pseudonyms))
    rows = _lock_available(connection, pseudonyms)
    locked_elsewhere = _existing(connection, pseudonyms - rows.keys())
    latest = _round_down(now(connection))  # read while holding the locks: no later opt-out can have an earlier timestamp
    recent = [accepted for accepted in batch if min(accepted.event.occurred_at, latest) >= oldest]
    allowed = [accepted for accepted in recent if _is_allowed(accepted, rows.get(accepted.pseudonym))]
    deferred = [accepted for accepted in recent if accepted.pseudonym in locked_elsewhere]
    stored = insert_events(connection, allowed, latest)
    rollups.add(connection, stored)
    return StoreResult(len(stored), len(batch) - len(allowed) - len(deferred), deferred)


def _lock_available(connection: Connection, pseudonyms: Iterable[str]) -> dict[str, Row[Any]]:
    """Lock the rows that no other transaction has locked. Waiting for the others would delay everybody's events."""
    wanted = select(people).where(people.c.pseudonym.in_(pseudonyms)).order_by(people.c.pseudonym)
    rows = connection.execute(wanted.with_for_update(key_share=True, skip_locked=True))
    return {row.pseudonym: row for row in rows}


def _is_allowed(accepted: AcceptedEvent, row: Row[Any] | None) -> bool:
    """Only timestamps sent by the client are compared with the time of the opt-in: the clocks of instances differ."""
    if row is None or row.opted_out or row.version != accepted.version:
        return False
    return not accepted.event.is_dated or row.counted_since is None or accepted.event.occurred_at >= row.counted_since


def _existing(connection: Connection, pseudonyms: set[str]) -> set[str]:
    if not pseudonyms:
        return set()
    return set(connection.execute(select(people.c.pseudonym).where(people.c.pseudonym.in_(pseudonyms))).scalars())


def insert_events(connection: Connection, allowed: Sequence[AcceptedEvent], latest: datetime) -> list[CountedEvent]:
    """Insert the events that are not stored yet, dated `latest` at most, and return them."""
    rows = [
        {
            "person": accepted.pseudonym,
            "event_id": accepted.event.event_id,
            "name": accepted.event.name,
            "category": accepted.event.category,
            "path": accepted.event.path,
            "properties": accepted.event.properties,
            "occurred_at": min(accepted.event.occurred_at, latest),
        }
        for accepted in allowed
    ]
    if not rows:
        return []
    statement = insert_into(connection, events).values(rows).on_conflict_do_nothing().returning(*_COUNTED)
    return [CountedEvent(*row) for row in connection.execute(statement)]


# Keys and retention.


def visitor_key(connection: Connection, day: str) -> bytes:
    """Return the key that all instances use on this day, and delete the keys of earlier days."""
    values = {"day": day, "key": secrets.token_bytes(KEY_BYTES)}
    connection.execute(insert_into(connection, visitor_keys).values(values).on_conflict_do_nothing())
    connection.execute(delete(visitor_keys).where(visitor_keys.c.day < day))
    key: bytes = connection.execute(select(visitor_keys.c.key).where(visitor_keys.c.day == day)).scalar_one()
    return key


def purge_batch(connection: Connection, oldest: datetime, limit: int) -> int:
    """Delete up to `limit` events before `oldest`, and old keys, visitor rows and counts.

    Returns the number of deleted events, or `limit` if there may be more to delete of any kind.
    """
    current = now(connection)
    connection.execute(delete(visitor_keys).where(visitor_keys.c.day < current.date().isoformat()))
    is_old = people.c.user_id.is_(None), people.c.created_at < current - VISITOR_ROW_RETENTION
    deleted_people = delete_batch(connection, people, limit, *is_old)
    old = select(*events.primary_key).where(events.c.occurred_at < oldest).order_by(events.c.occurred_at).limit(limit)
    statement = delete(events).where(is_in_batch(events, old)).returning(*_COUNTED)
    deleted = [CountedEvent(*row) for row in connection.execute(statement)]
    rollups.subtract(connection, deleted)
    all_deleted_before = oldest if len(deleted) < limit else max(event.occurred_at for event in deleted)
    deleted_counts = rollups.drop_before(connection, all_deleted_before, COUNTS_PER_EVENT * limit)
    has_more = deleted_people == limit or deleted_counts == COUNTS_PER_EVENT * limit
    return limit if has_more else len(deleted)
