"""Exports and the parts of their files in SQL. Each function runs in a transaction, by `Database.run`."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, tuple_

from app.analytics.exports.file import ExportedEvent
from app.core.timestamps import DAY, HOUR, floor
from app.database.batches import delete_batch
from app.database.clock import now
from app.database.schema import events, export_parts, exports, rollups
from app.database.upsert import insert_into
from app.jobs.leases import FAILED, SUCCEEDED, Lease, Leases, NotYet

RETENTION = timedelta(days=7)
MAX_LISTED = 100
MAX_HOURLY_ESTIMATE = timedelta(days=7)  # longer exports are estimated by days, which are fewer rows

leases = Leases(exports, rows=0)


@dataclass(frozen=True)
class Export:
    id: int
    user_id: int
    since: datetime
    until: datetime  # exclusive
    status: str
    progress: int  # percent
    rows: int
    error: str | None
    requested_at: datetime
    finished_at: datetime | None

    @property
    def is_active(self) -> bool:
        return self.finished_at is None

    @property
    def state(self) -> dict[str, Any]:
        """The payload of the socket event `export`."""
        return {name: getattr(self, name) for name in ("id", "status", "progress", "rows")}


@dataclass(frozen=True)
class ExportLease(Lease):
    export: Export


_EXPORT = tuple(exports.c[name] for name in Export.__dataclass_fields__)


# Requests of administrators.


def count_active(connection: Connection, user_id: int) -> int:
    conditions = exports.c.user_id == user_id, exports.c.finished_at.is_(None)
    return connection.execute(select(func.count()).select_from(exports).where(*conditions)).scalar_one()


def add(connection: Connection, user_id: int, since: datetime, until: datetime) -> Export:
    values = {"user_id": user_id, "since": since, "until": until, **leases.new(connection)}
    return Export(*connection.execute(insert(exports).values(values).returning(*_EXPORT)).one())


def delete_all(connection: Connection, user_id: int) -> None:
    own = exports.c.user_id == user_id
    connection.execute(select(exports.c.id).where(own).order_by(exports.c.id).with_for_update())
    connection.execute(delete(exports).where(own))


def list_by_user(connection: Connection, user_id: int) -> list[Export]:
    """Return the newest exports first."""
    own = select(*_EXPORT).where(exports.c.user_id == user_id, ~_is_expired(connection))
    return [Export(*row) for row in connection.execute(own.order_by(exports.c.id.desc()).limit(MAX_LISTED))]


def find_own(connection: Connection, user_id: int, export_id: int) -> Export | None:
    conditions = exports.c.id == export_id, exports.c.user_id == user_id, ~_is_expired(connection)
    row = connection.execute(select(*_EXPORT).where(*conditions)).first()
    return Export(*row) if row else None


def count_parts(connection: Connection, export_id: int) -> int:
    condition = export_parts.c.export_id == export_id
    return connection.execute(select(func.count()).select_from(export_parts).where(condition)).scalar_one()


def part(connection: Connection, export_id: int, number: int) -> bytes | None:
    conditions = export_parts.c.export_id == export_id, export_parts.c.number == number
    content: bytes | None = connection.execute(select(export_parts.c.content).where(*conditions)).scalar()
    return content


# Jobs.


def claim(connection: Connection, export_id: int, token: str) -> ExportLease | NotYet | None:
    """Lease the next export. Return None if none waits and the one of the message has finished."""
    lease = leases.claim(connection, export_id, token)
    if not isinstance(lease, Lease):
        return lease
    export = find(connection, lease.job_id)
    assert export is not None
    return ExportLease(**vars(lease), export=export)


def find(connection: Connection, export_id: int) -> Export | None:
    row = connection.execute(select(*_EXPORT).where(exports.c.id == export_id)).first()
    return Export(*row) if row else None


def discard_parts(connection: Connection, lease: ExportLease, limit: int) -> int:
    """Delete up to `limit` parts that an earlier attempt left. Returns the number of deleted parts."""
    if not leases.renew(connection, lease):
        return 0
    return delete_batch(connection, export_parts, limit, export_parts.c.export_id == lease.job_id)


def estimate_rows(connection: Connection, export: Export) -> int:
    """Add up whole hours or days, which may exceed the range at its ends."""
    grain = HOUR if export.until - export.since <= MAX_HOURLY_ESTIMATE else DAY
    between = rollups.c.start >= floor(export.since, grain), rollups.c.start < export.until
    counted = select(func.coalesce(func.sum(rollups.c.events), 0)).where(rollups.c.grain == grain, *between)
    return int(connection.execute(counted).scalar_one())


Cursor = tuple[datetime, str, str]  # time, person and ID of an event: the order of an export


def read_page(
    connection: Connection, export: Export, cursor: Cursor | None, limit: int
) -> tuple[list[ExportedEvent], Cursor | None]:
    """Return the events after the cursor, and the cursor of the last one."""
    time, key = events.c.occurred_at, tuple_(events.c.person, events.c.event_id)
    if cursor is None:
        rows = _read(connection, limit, time >= export.since, time < export.until)
    else:  # two queries: PostgreSQL would read too many rows for one comparison of all three columns
        rows = _read(connection, limit, time == cursor[0], key > tuple_(*cursor[1:]))
        if len(rows) < limit:
            rows += _read(connection, limit - len(rows), time > cursor[0], time < export.until)
    found = [ExportedEvent(row.event_id, row.occurred_at, row.name, row.category, row.properties) for row in rows]
    return found, (rows[-1].occurred_at, rows[-1].person, rows[-1].event_id) if rows else None


def save_progress(connection: Connection, lease: ExportLease, *, progress: int, rows: int) -> bool:
    """Return False if the lease was lost."""
    return leases.renew(connection, lease, progress=progress, rows=rows)


def add_part(connection: Connection, lease: ExportLease, number: int, content: bytes, *, progress: int, rows: int) -> bool:
    """Add a part; idempotent, for retries."""
    if not save_progress(connection, lease, progress=progress, rows=rows):
        return False
    values = {"export_id": lease.job_id, "number": number, "content": content}
    connection.execute(insert_into(connection, export_parts).values(values).on_conflict_do_nothing())
    return True


def succeed(connection: Connection, lease: ExportLease, rows: int) -> bool:
    return leases.finish(connection, lease, status=SUCCEEDED, progress=100, rows=rows)


def fail(connection: Connection, lease: ExportLease, error: str) -> bool:
    return leases.finish(connection, lease, status=FAILED, error=error)


# Retention.


def purge(connection: Connection, limit: int) -> int:
    """Delete up to `limit` parts of failed and expired exports, or else up to `limit` expired exports. Returns how many."""
    useless = select(exports.c.id).where(_is_expired(connection) | (exports.c.status == FAILED))
    parts = delete_batch(connection, export_parts, limit, export_parts.c.export_id.in_(useless))
    return parts or delete_batch(connection, exports, limit, _is_expired(connection))


def _is_expired(connection: Connection) -> ColumnElement[bool]:
    return exports.c.requested_at < now(connection) - RETENTION


def _read(connection: Connection, limit: int, *conditions: ColumnElement[bool]) -> list[Any]:
    order = events.c.occurred_at, events.c.person, events.c.event_id
    return list(connection.execute(select(events).where(*conditions).order_by(*order).limit(limit)))
