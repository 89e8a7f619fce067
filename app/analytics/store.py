"""People, their choices and their events in SQL. Each function is work for `Database.run`.

A person's row is the fence: whoever stores events of theirs holds its lock, and so does whoever changes the choice. Its version
says under which state of affairs an event was accepted; an older one is not stored any more.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, literal, select, update

from app.analytics import rollups
from app.analytics.events import Event
from app.analytics.person import Account, Person, Standing, is_visitor, new_pseudonym
from app.analytics.rollups import Counted
from app.database.clock import now
from app.database.schema import events, people, users, visitor_keys
from app.database.upsert import insert_into

KEY_BYTES = 32
ERASED_AT_ONCE = 1000  # events
# A visitor's no is the browser's, whose cookie tells it from then on. What was on its way meanwhile comes without the cookie.
ON_THE_WAY = timedelta(seconds=2)
VISITORS_KEPT = timedelta(days=7)  # their rows: by then nothing of theirs can be waiting any more


@dataclass(frozen=True)
class Accepted:
    """An event under the version of its person's row that it was accepted with."""

    pseudonym: str
    version: int
    event: Event


@dataclass(frozen=True)
class Outcome:
    """Of a batch. `later`: those whose person's row somebody else holds at this moment."""

    stored: int = 0
    dropped: int = 0
    later: list[Accepted] = field(default_factory=list)


# Choices.


def standing(connection: Connection, person: Person) -> Standing | None:
    """None for an account that is gone."""
    if isinstance(person, Account):
        _add_account(connection, person.user_id)
        row = _row(connection, person)
        return _standing(row) if row else None
    row = _row(connection, person)
    if row is None:
        return Standing(person.pseudonym, version=0, is_open=True)
    is_on_the_way = row.fenced_at is not None and now(connection) < row.fenced_at + ON_THE_WAY
    return Standing(row.pseudonym, row.version, is_open=not is_on_the_way, fenced_at=row.fenced_at)


def opt_out(connection: Connection, person: Person) -> Standing | None:
    """From this transaction's end on nothing more of the person is stored. Said twice, it is the first time that counts."""
    row = _locked(connection, person)
    if row is None or row.opted_out:
        return _standing(row) if row else None
    fenced_at = _ceiling(now(connection))
    return _change(connection, row, opted_out=isinstance(person, Account), fenced_at=fenced_at)


def opt_in(connection: Connection, person: Person) -> Standing | None:
    """From now on: what was accepted before stays fenced off, and so does what a client says to have happened before."""
    row = _locked(connection, person)
    if row is None or row.fenced_at is None:
        return _standing(row) if row else None
    counted_since = _to_the_millisecond(now(connection))
    return _change(connection, row, opted_out=False, fenced_at=None, counted_since=counted_since)


def erase(connection: Connection, person: Person) -> tuple[int, Standing | None]:
    """How many events there were. What still waits to be stored never is, and an account goes on under another pseudonym."""
    row = _locked(connection, person)
    if row is None:
        return 0, None
    count = rollups.discount(connection, _delete_all(connection, row.pseudonym))
    rollups.leave(connection, row.pseudonym)
    renamed = {"pseudonym": new_pseudonym()} if isinstance(person, Account) else {}
    return count, _change(connection, row, **renamed)


def forget(connection: Connection, user_id: int) -> None:
    """Before the account is deleted, in the same transaction: its row goes with it. Nobody gives it one again meanwhile."""
    connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update())
    erase(connection, Account(user_id))


def _delete_all(connection: Connection, pseudonym: str) -> Iterator[Counted]:
    """A few at a time: of very many at once an event loop would hear nothing else for seconds."""
    some = select(events.c.event_id).where(events.c.person == pseudonym).limit(ERASED_AT_ONCE)
    here = (events.c.person == pseudonym) & events.c.event_id.in_(some)
    while gone := connection.execute(delete(events).where(here).returning(*_COUNTED)).all():
        yield from (Counted(*one) for one in gone)


_COUNTED = (events.c.person, events.c.name, events.c.category, events.c.path, events.c.occurred_at)


def _add_account(connection: Connection, user_id: int) -> None:
    mine = select(
        literal(new_pseudonym()), users.c.id, literal(False), literal(0), literal(now(connection), people.c.created_at.type)
    ).where(users.c.id == user_id)
    missing = ~select(people.c.user_id).where(people.c.user_id == user_id).exists()
    names = ["pseudonym", "user_id", "opted_out", "version", "created_at"]
    lasting = mine.where(missing).with_for_update(read=True, key_share=True, of=users)  # waits for one that is being deleted
    statement = insert_into(connection, people).from_select(names, lasting)
    connection.execute(statement.on_conflict_do_nothing())


def _add_visitors(connection: Connection, pseudonyms: Iterable[str]) -> None:
    moment = now(connection)
    rows = [{"pseudonym": pseudonym, "opted_out": False, "version": 0, "created_at": moment} for pseudonym in sorted(pseudonyms)]
    if rows:
        connection.execute(insert_into(connection, people).values(rows).on_conflict_do_nothing())


def _row(connection: Connection, person: Person, *, lock: bool = False) -> Row[Any] | None:
    mine = people.c.user_id == person.user_id if isinstance(person, Account) else people.c.pseudonym == person.pseudonym
    statement = select(people).where(mine)
    return connection.execute(statement.with_for_update(key_share=True) if lock else statement).first()


def _locked(connection: Connection, person: Person) -> Row[Any] | None:
    if isinstance(person, Account):
        _add_account(connection, person.user_id)
    else:
        _add_visitors(connection, [person.pseudonym])
    return _row(connection, person, lock=True)


def _change(connection: Connection, row: Row[Any], **values: Any) -> Standing:
    here = people.c.pseudonym == row.pseudonym
    changed = update(people).where(here).values(version=row.version + 1, **values).returning(*people.c)
    return _standing(connection.execute(changed).one())


def _standing(row: Row[Any]) -> Standing:
    """A visitor's row is closed for a moment only, see `standing`; here that is the one right after the change."""
    is_open = not row.opted_out and not (is_visitor(row.pseudonym) and row.fenced_at is not None)
    return Standing(row.pseudonym, row.version, is_open, row.fenced_at)


def _ceiling(moment: datetime) -> datetime:
    """To the millisecond in which moments are told."""
    return moment + timedelta(microseconds=-moment.microsecond % 1000)


# Events.


def keep(connection: Connection, batch: Sequence[Accepted], oldest: datetime) -> Outcome:
    """Stores what its people have not refused meanwhile, each event once, however often it comes. `oldest`: that is kept."""
    pseudonyms = {one.pseudonym for one in batch}
    _add_visitors(connection, filter(is_visitor, pseudonyms))
    held = _hold(connection, pseudonyms)
    busy = _existing(connection, pseudonyms - held.keys())
    latest = _to_the_millisecond(now(connection))  # under the locks: no fence that comes afterwards can have an earlier moment
    young = [one for one in batch if min(one.event.occurred_at, latest) >= oldest]
    wanted = [one for one in young if _may_be_stored(one, held.get(one.pseudonym))]
    later = [one for one in young if one.pseudonym in busy]
    stored = _insert(connection, wanted, latest)
    rollups.count(connection, stored)
    return Outcome(len(stored), len(batch) - len(wanted) - len(later), later)


def _hold(connection: Connection, pseudonyms: Iterable[str]) -> dict[str, Row[Any]]:
    """Locks the rows that nobody else has locked.

    Not waiting for the others: one person who changes their mind does not keep back the events of all.
    """
    wanted = select(people).where(people.c.pseudonym.in_(pseudonyms)).order_by(people.c.pseudonym)
    rows = connection.execute(wanted.with_for_update(key_share=True, skip_locked=True))
    return {row.pseudonym: row for row in rows}


def _may_be_stored(one: Accepted, row: Row[Any] | None) -> bool:
    """The clocks of instances differ, so that only a time which the client tells is held against the moment of a yes."""
    if row is None or row.opted_out or row.version != one.version:
        return False
    return not one.event.is_dated or row.counted_since is None or one.event.occurred_at >= row.counted_since


def _existing(connection: Connection, pseudonyms: set[str]) -> set[str]:
    if not pseudonyms:
        return set()
    return set(connection.execute(select(people.c.pseudonym).where(people.c.pseudonym.in_(pseudonyms))).scalars())


def _insert(connection: Connection, wanted: Sequence[Accepted], latest: datetime) -> list[Counted]:
    """Those that were new."""
    rows = [
        {
            "person": one.pseudonym,
            "event_id": one.event.event_id,
            "name": one.event.name,
            "category": one.event.category,
            "path": one.event.path,
            "properties": one.event.properties,
            "occurred_at": min(one.event.occurred_at, latest),
        }
        for one in wanted
    ]
    if not rows:
        return []
    statement = insert_into(connection, events).values(rows).on_conflict_do_nothing().returning(*_COUNTED)
    return [Counted(*row) for row in connection.execute(statement)]


def _to_the_millisecond(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


# Keys and retention.


def visitor_key(connection: Connection, day: str) -> bytes:
    """The one that all instances use on this day; those of earlier days are forgotten."""
    values = {"day": day, "key": secrets.token_bytes(KEY_BYTES)}
    connection.execute(insert_into(connection, visitor_keys).values(values).on_conflict_do_nothing())
    connection.execute(delete(visitor_keys).where(visitor_keys.c.day < day))
    key: bytes = connection.execute(select(visitor_keys.c.key).where(visitor_keys.c.day == day)).scalar_one()
    return key


def purge(connection: Connection, oldest: datetime, limit: int) -> int:
    """Deletes what is older, so many events at most; returns how many. Somebody who is being erased is not waited for."""
    moment = now(connection)
    connection.execute(delete(visitor_keys).where(visitor_keys.c.day < moment.date().isoformat()))
    connection.execute(delete(people).where(people.c.user_id.is_(None), people.c.created_at < moment - VISITORS_KEPT))
    old = select(events.c.person, events.c.event_id).where(events.c.occurred_at < oldest)
    batch = old.order_by(events.c.occurred_at).limit(limit).with_for_update(skip_locked=True).subquery()
    here = (events.c.person == batch.c.person) & (events.c.event_id == batch.c.event_id)
    doomed = select(literal(1)).select_from(batch).where(here).correlate(events).exists()
    gone = [Counted(*row) for row in connection.execute(delete(events).where(doomed).returning(*_COUNTED))]
    rollups.discount(connection, gone)
    rollups.drop(connection, oldest)
    return len(gone)
