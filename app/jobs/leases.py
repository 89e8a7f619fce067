"""Jobs in SQL, for every table with the columns of a job. Each method is work for `Database.run`.

The row is the truth about its job. A worker claims it with a lease, which has a random token and expires unless it is renewed.
Every later change names that token, so a worker that has lost its lease changes nothing.

A message only wakes a worker up. The worker then claims the job that is next, whatever the ID in the message. So the order of
jobs does not depend on the order of messages, and a lost message delays no particular job.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, func, select, update

from app.core.spans import current_traceparent
from app.database.clock import now

LEASE_DURATION = timedelta(seconds=20)
# A job that waits is enqueued again after this pause, and then after as long as it has waited. Its message may be lost, but if
# there is a backlog it is not, and more messages would only fill Redis.
PICKUP_TIMEOUT = timedelta(seconds=20)
MAX_PICKUP_TIMEOUT = timedelta(minutes=10)
CONTENTION_DELAY = timedelta(seconds=1)

QUEUED, RUNNING, SUCCEEDED, FAILED = "queued", "running", "succeeded", "failed"

_NO_LEASE = {"lease": None, "leased_until": None}


@dataclass(frozen=True)
class Lease:
    """The exclusive right to work on a job until the lease expires."""

    job_id: int
    token: str
    attempt: int  # 1, 2, ...
    traceparent: str | None  # of the request that started the job, if traces are on


@dataclass(frozen=True)
class NotYet:
    """No job can be claimed, but the one of the message may be after `seconds`: its retry is due, or a lease has expired."""

    seconds: float


@dataclass(frozen=True)
class UnfinishedJobs:
    """How many jobs of one kind are in each state, and for how long the oldest queued one has existed (0: none is queued)."""

    queued: int
    running: int
    oldest_queued_seconds: float


class Leases:
    def __init__(self, table: Table, order: Sequence[ColumnElement[Any]] = (), **queued_values: Any) -> None:
        """Jobs start in this order, and otherwise the oldest first. `queued_values` are the values of the table's own columns
        while a job waits."""
        self._table = table
        self._order = order
        self._live = table.c.finished_at.is_(None)
        self._queued = {"status": QUEUED, "progress": 0, **queued_values}

    def new(self, connection: Connection) -> dict[str, Any]:
        """Return the column values of a new job."""
        timestamp = now(connection)
        times = {"requested_at": timestamp, "dispatched_at": timestamp}
        return {**self._queued, "attempts": 0, **times, "traceparent": current_traceparent()}

    def claim(self, connection: Connection, /, job_id: int, token: str, **values: Any) -> Lease | NotYet | None:
        """Lease the job that is next and set further column `values`. `job_id` is the job of the message that caused this.

        Return None if no job waits and the one of the message has finished.
        """
        jobs, timestamp = self._table, now(connection)
        # Rows that another worker is claiming are skipped.
        following = self._in_order(timestamp).add_columns(jobs.c.attempts, jobs.c.traceparent).limit(1)
        row = connection.execute(following.with_for_update(skip_locked=True)).first()
        if row is None:
            return self._not_yet(connection, job_id, timestamp)
        running = {"status": RUNNING, "attempts": row.attempts + 1, "lease": token, "leased_until": timestamp + LEASE_DURATION}
        connection.execute(update(jobs).where(jobs.c.id == row.id).values(self._queued | running | values))
        return Lease(row.id, token, row.attempts + 1, row.traceparent)

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
        """Return those of the next `limit` jobs that were not picked up in time, and record them as enqueued again.

        The other jobs need no message yet: each message lets the next job start, and then further jobs are among the next.
        """
        jobs, timestamp = self._table, now(connection)
        columns = jobs.c.status, jobs.c.requested_at, jobs.c.dispatched_at, jobs.c.leased_until
        rows = connection.execute(self._in_order(timestamp).add_columns(*columns).limit(limit))
        overdue = [row.id for row in rows if timestamp - row.dispatched_at > _pause(row)]
        # Another process may have found them too.
        lost = select(jobs.c.id).where(jobs.c.id.in_(overdue), jobs.c.dispatched_at < timestamp - PICKUP_TIMEOUT, self._live)
        ids = list(connection.execute(lost.order_by(jobs.c.id).with_for_update(skip_locked=True)).scalars())
        connection.execute(update(jobs).where(jobs.c.id.in_(ids)).values(dispatched_at=timestamp))
        return ids

    def count_unfinished(self, connection: Connection) -> UnfinishedJobs:
        jobs = self._table
        statement = select(jobs.c.status, func.count(), func.min(jobs.c.requested_at)).where(self._live).group_by(jobs.c.status)
        found = {status: (count, oldest) for status, count, oldest in connection.execute(statement)}
        timestamp = now(connection)
        queued, oldest = found.get(QUEUED, (0, timestamp))
        running, _ = found.get(RUNNING, (0, None))
        return UnfinishedJobs(queued, running, max(0.0, (timestamp - oldest).total_seconds()))

    def release_all(self, connection: Connection) -> list[int]:
        """Release every unfinished job. Only safe in a process that knows that no other one runs jobs."""
        jobs, released = self._table, {**self._queued, "dispatched_at": now(connection), **_NO_LEASE}
        connection.execute(update(jobs).where(self._live).values(released))
        return list(connection.execute(select(jobs.c.id).where(self._live).order_by(jobs.c.id)).scalars())

    def _in_order(self, timestamp: datetime) -> Select[tuple[int]]:
        """Return a query for the IDs of the jobs that can be claimed, the next one first."""
        jobs = self._table
        is_queued = (jobs.c.status == QUEUED) & (jobs.c.dispatched_at <= timestamp)
        is_abandoned = (jobs.c.status == RUNNING) & (jobs.c.leased_until < timestamp)
        return select(jobs.c.id).where(self._live, is_queued | is_abandoned).order_by(*self._order, jobs.c.id)

    def _not_yet(self, connection: Connection, job_id: int, timestamp: datetime) -> NotYet | None:
        jobs = self._table
        statement = select(jobs.c.status, jobs.c.dispatched_at, jobs.c.leased_until).where(jobs.c.id == job_id, self._live)
        row = connection.execute(statement).first()
        if row is None:
            return None
        claimable_at = row.leased_until if row.status == RUNNING else row.dispatched_at
        return NotYet(max(claimable_at - timestamp, CONTENTION_DELAY).total_seconds())

    def _change(self, connection: Connection, lease: Lease, values: dict[str, Any]) -> bool:
        return connection.execute(update(self._table).where(self._holds(lease)).values(values)).rowcount == 1

    def _holds(self, lease: Lease) -> ColumnElement[bool]:
        jobs = self._table
        return (jobs.c.id == lease.job_id) & (jobs.c.lease == lease.token) & (jobs.c.status == RUNNING)


def _pause(row: Row[Any]) -> timedelta:
    """Return the pause after which a job is enqueued again: as long as it had waited when it was last enqueued."""
    waiting_since: datetime = row.leased_until if row.status == RUNNING else row.requested_at
    dispatched_at: datetime = row.dispatched_at
    return min(max(dispatched_at - waiting_since, PICKUP_TIMEOUT), MAX_PICKUP_TIMEOUT)
