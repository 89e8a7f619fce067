"""The life of jobs in SQL, for each table that has their columns. Each method is work for `Database.run`.

The row of a job is the truth about it. It is claimed for a while, by a lease with a random name, and each later change of it
names that lease: whoever has lost it changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, select, update

from app.database.clock import now

LEASE = timedelta(seconds=20)
PATIENCE = timedelta(seconds=20)  # with a message that nobody has followed
LONG_PATIENCE = timedelta(minutes=2)  # where it has waited for longer than that: the queue is long rather than lost

QUEUED, RUNNING, SUCCEEDED, FAILED = "queued", "running", "succeeded", "failed"

_NOBODY = {"lease": None, "leased_until": None}


@dataclass(frozen=True)
class Held:
    """The right to work on a job, as long as its lease is renewed."""

    id: int
    lease: str
    attempt: int  # 1, 2, ...


@dataclass(frozen=True)
class Busy:
    """Somebody else has the claim, for so many seconds if it is not renewed."""

    seconds: float


class Leases:
    def __init__(self, table: Table, **waiting: Any) -> None:
        """`waiting`: what the table's own columns say of a job that has not begun."""
        self._table = table
        self._live = table.c.finished_at.is_(None)
        self._waiting = {"status": QUEUED, "progress": 0, **waiting}

    def new(self, connection: Connection) -> dict[str, Any]:
        """The values of a job that was asked for at this moment."""
        moment = now(connection)
        return {**self._waiting, "attempts": 0, "requested_at": moment, "dispatched_at": moment}

    def claim(self, connection: Connection, /, job_id: int, lease: str, **values: Any) -> Held | Busy | None:
        """None if it has ended."""
        jobs = self._table
        wanted = select(jobs.c.status, jobs.c.attempts, jobs.c.leased_until).where(jobs.c.id == job_id, self._live)
        row = connection.execute(wanted.with_for_update()).first()
        if row is None:
            return None
        moment = now(connection)
        if row.status == RUNNING and row.leased_until > moment:
            return Busy((row.leased_until - moment).total_seconds())
        begun = {"status": RUNNING, "attempts": row.attempts + 1, "lease": lease, "leased_until": moment + LEASE}
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(self._waiting | begun | values))
        return Held(job_id, lease, row.attempts + 1)

    def renew(self, connection: Connection, /, held: Held, **values: Any) -> bool:
        """False if the lease is lost."""
        return self._change(connection, held, {"leased_until": now(connection) + LEASE, **values})

    def give_back(self, connection: Connection, /, held: Held, *, attempts: int, delay: timedelta, **values: Any) -> bool:
        """For somebody else, or for later. False if the lease was lost before."""
        back = {"attempts": attempts, "dispatched_at": now(connection) + delay, **_NOBODY}
        return self._change(connection, held, self._waiting | back | values)

    def end(self, connection: Connection, /, held: Held, **values: Any) -> bool:
        """False if the lease was lost before."""
        return self._change(connection, held, {"finished_at": now(connection), **_NOBODY, **values})

    def forgotten(self, connection: Connection, limit: int) -> list[int]:
        """Jobs that nobody works on though a message was sent for them a while ago; from now on another one counts as sent."""
        jobs, moment = self._table, now(connection)
        young, overdue = jobs.c.requested_at > moment - LONG_PATIENCE, jobs.c.dispatched_at < moment - LONG_PATIENCE
        waiting = (jobs.c.status == QUEUED) & (young | overdue)
        left = jobs.c.leased_until < moment
        lost = select(jobs.c.id).where(self._live, waiting | left, jobs.c.dispatched_at < moment - PATIENCE)
        ids = list(connection.execute(lost.order_by(jobs.c.id).limit(limit).with_for_update(skip_locked=True)).scalars())
        connection.execute(update(jobs).where(jobs.c.id.in_(ids)).values(dispatched_at=moment))
        return ids

    def release_all(self, connection: Connection) -> list[int]:
        """All live jobs, for a process that knows that nobody else works on them."""
        jobs, released = self._table, {**self._waiting, "dispatched_at": now(connection), **_NOBODY}
        connection.execute(update(jobs).where(self._live).values(released))
        return list(connection.execute(select(jobs.c.id).where(self._live).order_by(jobs.c.id)).scalars())

    def _change(self, connection: Connection, held: Held, values: dict[str, Any]) -> bool:
        return connection.execute(update(self._table).where(self._is(held)).values(values)).rowcount == 1

    def _is(self, held: Held) -> ColumnElement[bool]:
        jobs = self._table
        return (jobs.c.id == held.id) & (jobs.c.lease == held.lease) & (jobs.c.status == RUNNING)
