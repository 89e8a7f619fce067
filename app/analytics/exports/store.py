"""Exports and the parts of their files in SQL. Each function is work for `Database.run`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, tuple_

from app.analytics.exports.file import Event
from app.core.timestamps import DAY, HOUR, floor
from app.database.clock import now
from app.database.schema import events, export_parts, exports, rollups, users
from app.database.upsert import insert_into
from app.jobs.leases import FAILED, SUCCEEDED, AlreadyLeased, Lease, Leases

KEPT_FOR = timedelta(days=7)
LISTED = 100  # of one administrator, the newest
COUNTED_BY_HOUR = timedelta(days=7)  # longer ones by day: there are fewer rollups to add up

leases = Leases(exports, rows=0)


@dataclass(frozen=True)
class Export:
    id: int
    user_id: int
    since: datetime
    until: datetime  # the first moment that is no longer part of it
    status: str
    progress: int  # percent
    rows: int
    error: str | None
    requested_at: datetime
    finished_at: datetime | None

    @property
    def is_live(self) -> bool:
        return self.finished_at is None

    @property
    def state(self) -> dict[str, Any]:
        """What sockets are told."""
        return {name: getattr(self, name) for name in ("id", "status", "progress", "rows")}


@dataclass(frozen=True)
class ExportLease(Lease):
    """The right to work on an export."""

    export: Export


_EXPORT = tuple(exports.c[name] for name in Export.__dataclass_fields__)


# What administrators do.


def lock_owner(connection: Connection, user_id: int) -> None:
    """Until this transaction ends nobody else orders exports for this user."""
    connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update(key_share=True))


def count_live(connection: Connection, user_id: int) -> int:
    mine = exports.c.user_id == user_id, exports.c.finished_at.is_(None)
    return connection.execute(select(func.count()).select_from(exports).where(*mine)).scalar_one()


def add(connection: Connection, user_id: int, since: datetime, until: datetime) -> Export:
    values = {"user_id": user_id, "since": since, "until": until, **leases.new(connection)}
    return Export(*connection.execute(insert(exports).values(values).returning(*_EXPORT)).one())


def of_user(connection: Connection, user_id: int) -> list[Export]:
    """Newest first."""
    mine = select(*_EXPORT).where(exports.c.user_id == user_id, ~_is_old(connection))
    return [Export(*row) for row in connection.execute(mine.order_by(exports.c.id.desc()).limit(LISTED))]


def own(connection: Connection, user_id: int, export_id: int) -> Export | None:
    mine = exports.c.id == export_id, exports.c.user_id == user_id, ~_is_old(connection)
    row = connection.execute(select(*_EXPORT).where(*mine)).first()
    return Export(*row) if row else None


def count_parts(connection: Connection, export_id: int) -> int:
    mine = export_parts.c.export_id == export_id
    return connection.execute(select(func.count()).select_from(export_parts).where(mine)).scalar_one()


def part(connection: Connection, export_id: int, number: int) -> bytes | None:
    mine = export_parts.c.export_id == export_id, export_parts.c.number == number
    content: bytes | None = connection.execute(select(export_parts.c.content).where(*mine)).scalar()
    return content


# What workers do.


def claim(connection: Connection, export_id: int, token: str) -> ExportLease | AlreadyLeased | None:
    """None if it has ended."""
    lease = leases.claim(connection, export_id, token)
    if not isinstance(lease, Lease):
        return lease
    export = one(connection, export_id)
    assert export is not None
    return ExportLease(**vars(lease), export=export)


def one(connection: Connection, export_id: int) -> Export | None:
    row = connection.execute(select(*_EXPORT).where(exports.c.id == export_id)).first()
    return Export(*row) if row else None


def discard_parts(connection: Connection, lease: ExportLease, limit: int) -> int:
    """So many at most of those that an earlier attempt has left; how many."""
    return _delete_parts(connection, export_parts.c.export_id == lease.job_id, limit) if leases.renew(connection, lease) else 0


def expected_rows(connection: Connection, export: Export) -> int:
    """About; at the ends whole hours or days are counted."""
    grain = HOUR if export.until - export.since <= COUNTED_BY_HOUR else DAY
    between = rollups.c.start >= floor(export.since, grain), rollups.c.start < export.until
    counted = select(func.coalesce(func.sum(rollups.c.events), 0)).where(rollups.c.grain == grain, *between)
    return int(connection.execute(counted).scalar_one())


Place = tuple[datetime, str, str]  # of an event, in the order of an export


def page(connection: Connection, export: Export, after: Place | None, limit: int) -> tuple[list[Event], Place | None]:
    """The events that follow, and the place of the last of them."""
    moment, who = events.c.occurred_at, tuple_(events.c.person, events.c.event_id)
    if after is None:
        rows = _read(connection, limit, moment >= export.since, moment < export.until)
    else:  # in two steps: PostgreSQL would not see that one comparison of all three leaves it few rows to read
        rows = _read(connection, limit, moment == after[0], who > tuple_(*after[1:]))
        if len(rows) < limit:
            rows += _read(connection, limit - len(rows), moment > after[0], moment < export.until)
    found = [Event(row.event_id, row.occurred_at, row.name, row.category, row.properties) for row in rows]
    return found, (rows[-1].occurred_at, rows[-1].person, rows[-1].event_id) if rows else None


def note(connection: Connection, lease: ExportLease, *, progress: int, rows: int) -> bool:
    """False if the lease is lost."""
    return leases.renew(connection, lease, progress=progress, rows=rows)


def add_part(connection: Connection, lease: ExportLease, number: int, content: bytes, *, progress: int, rows: int) -> bool:
    """False if the lease is lost. Who does not know whether it was done may do it again."""
    if not note(connection, lease, progress=progress, rows=rows):
        return False
    values = {"export_id": lease.job_id, "number": number, "content": content}
    connection.execute(insert_into(connection, export_parts).values(values).on_conflict_do_nothing())
    return True


def succeed(connection: Connection, lease: ExportLease, rows: int) -> bool:
    """False if the lease was lost before."""
    return leases.finish(connection, lease, status=SUCCEEDED, progress=100, rows=rows)


def fail(connection: Connection, lease: ExportLease, error: str) -> bool:
    """False if the lease was lost before."""
    return leases.finish(connection, lease, status=FAILED, error=error)


# What has to be done again and again.


def purge(connection: Connection, limit: int) -> int:
    """Deletes so many at most of the parts that nobody may read any more, or else the old exports; how many."""
    useless = select(exports.c.id).where(_is_old(connection) | (exports.c.status == FAILED))
    parts = _delete_parts(connection, export_parts.c.export_id.in_(useless), limit)
    return parts or connection.execute(delete(exports).where(_is_old(connection))).rowcount


def _is_old(connection: Connection) -> ColumnElement[bool]:
    return exports.c.requested_at < now(connection) - KEPT_FOR


def _read(connection: Connection, limit: int, *conditions: ColumnElement[bool]) -> list[Any]:
    order = events.c.occurred_at, events.c.person, events.c.event_id
    return list(connection.execute(select(events).where(*conditions).order_by(*order).limit(limit)))


def _delete_parts(connection: Connection, condition: ColumnElement[bool], limit: int) -> int:
    key = tuple_(export_parts.c.export_id, export_parts.c.number)
    some = select(export_parts.c.export_id, export_parts.c.number).where(condition).limit(limit)
    return connection.execute(delete(export_parts).where(key.in_(some))).rowcount
