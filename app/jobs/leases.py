"""Jobs in SQL, for every table with the columns of a job. Each method is work for `Database.run`.

The row is the truth about its job. A worker claims it with a lease, which has a random token and expires unless it is renewed.
Every later change names that token, so a worker that has lost its lease changes nothing.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, select, update

from app.database.clock import now

LEASE_DURATION = timedelta(seconds=20)
PICKUP_TIMEOUT = timedelta(seconds=20)  # the message of a job that nobody has claimed by then counts as lost
BACKLOG_PICKUP_TIMEOUT = timedelta(minutes=2)  # for jobs that are older than this: more likely there is a backlog

QUEUED, RUNNING, SUCCEEDED, FAILED = "queued", "running", "succeeded", "failed"

_NO_LEASE = {"lease": None, "leased_until": None}


@dataclass(frozen=True)
class Lease:
    """The exclusive right to work on a job until the lease expires."""

    job_id: int
    token: str
    attempt: int  # 1, 2, ...


@dataclass(frozen=True)
class AlreadyLeased:
    """Another worker holds the lease of the job, which expires after `seconds` unless it is renewed."""

    seconds: float


class Leases:
    def __init__(self, table: Table, **queued_values: Any) -> None:
        """`queued_values` are the values of the table's own columns while a job waits."""
        self._table = table
        self._live = table.c.finished_at.is_(None)
        self._queued = {"status": QUEUED, "progress": 0, **queued_values}

    def new(self, connection: Connection) -> dict[str, Any]:
        """Return the column values of a new job."""
        timestamp = now(connection)
        return {**self._queued, "attempts": 0, "requested_at": timestamp, "dispatched_at": timestamp}

    def claim(self, connection: Connection, /, job_id: int, token: str, **values: Any) -> Lease | AlreadyLeased | None:
        """Lease a job and set further column `values`. Return None if the job has finished."""
        jobs = self._table
        live = select(jobs.c.status, jobs.c.attempts, jobs.c.leased_until).where(jobs.c.id == job_id, self._live)
        row = connection.execute(live.with_for_update()).first()
        if row is None:
            return None
        timestamp = now(connection)
        if row.status == RUNNING and row.leased_until > timestamp:
            return AlreadyLeased((row.leased_until - timestamp).total_seconds())
        running = {"status": RUNNING, "attempts": row.attempts + 1, "lease": token, "leased_until": timestamp + LEASE_DURATION}
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(self._queued | running | values))
        return Lease(job_id, token, row.attempts + 1)

    def renew(self, connection: Connection, /, lease: Lease, **values: Any) -> bool:
        """Extend a lease. Return False if it is lost."""
        return self._change(connection, lease, {"leased_until": now(connection) + LEASE_DURATION, **values})

    def release(self, connection: Connection, /, lease: Lease, *, attempts: int, delay: timedelta, **values: Any) -> bool:
        """Put a job back into the queue, to be picked up after `delay`. Return False if the lease is lost."""
        released = {"attempts": attempts, "dispatched_at": now(connection) + delay, **_NO_LEASE}
        return self._change(connection, lease, self._queued | released | values)

    def finish(self, connection: Connection, /, lease: Lease, **values: Any) -> bool:
        """End a job. Return False if the lease is lost."""
        return self._change(connection, lease, {"finished_at": now(connection), **_NO_LEASE, **values})

    def take_lost(self, connection: Connection, limit: int) -> list[int]:
        """Return jobs that were not picked up in time or whose lease has expired, and record them as enqueued again."""
        jobs, timestamp = self._table, now(connection)
        is_new = jobs.c.requested_at > timestamp - BACKLOG_PICKUP_TIMEOUT
        is_overdue = jobs.c.dispatched_at < timestamp - BACKLOG_PICKUP_TIMEOUT
        is_lost = ((jobs.c.status == QUEUED) & (is_new | is_overdue)) | (jobs.c.leased_until < timestamp)
        lost = select(jobs.c.id).where(self._live, is_lost, jobs.c.dispatched_at < timestamp - PICKUP_TIMEOUT)
        ids = list(connection.execute(lost.order_by(jobs.c.id).limit(limit).with_for_update(skip_locked=True)).scalars())
        connection.execute(update(jobs).where(jobs.c.id.in_(ids)).values(dispatched_at=timestamp))
        return ids

    def release_all(self, connection: Connection) -> list[int]:
        """Release every unfinished job. Only safe in a process that knows that no other one runs jobs."""
        jobs, released = self._table, {**self._queued, "dispatched_at": now(connection), **_NO_LEASE}
        connection.execute(update(jobs).where(self._live).values(released))
        return list(connection.execute(select(jobs.c.id).where(self._live).order_by(jobs.c.id)).scalars())

    def _change(self, connection: Connection, lease: Lease, values: dict[str, Any]) -> bool:
        return connection.execute(update(self._table).where(self._holds(lease)).values(values)).rowcount == 1

    def _holds(self, lease: Lease) -> ColumnElement[bool]:
        jobs = self._table
        return (jobs.c.id == lease.job_id) & (jobs.c.lease == lease.token) & (jobs.c.status == RUNNING)
