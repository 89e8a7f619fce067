"""Channels and their deliveries in SQL. Each function is work for `Database.run`.

A delivery is created in the transaction of its notification. A worker leases a channel, sends its next message without a
transaction, and stores the outcome. If the worker is killed in between, the lease expires, and the message is sent again.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, delete, func, insert, or_, select, update

from app.database.batches import delete_batch
from app.database.clock import now
from app.database.schema import channels, deliveries, notifications, users

WEBHOOK, EMAIL, FEED = "webhook", "email", "feed"

# Longer than an attempt takes. A mail has several steps, each with a time limit of its own.
LEASE_DURATIONS = {WEBHOOK: timedelta(seconds=40), EMAIL: timedelta(minutes=2)}
MAX_ATTEMPT_DURATION = timedelta(seconds=22)  # of a webhook, from the lease on: it may begin late, then DNS, then the exchange
# After each failed attempt. Together almost a day; the attempt after the last pause is the last one.
PAUSES = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800, 28_800))
HOLD = timedelta(hours=1)  # for so long after its first attempt, a failing delivery holds back the later ones
MAIL_INTERVAL = timedelta(minutes=10)
MAX_IN_MAIL = 500
MAX_OVERTAKEN = 100
MAX_LISTED = 50
RETENTION = timedelta(days=7)
MAX_ERROR_LENGTH = 300

_IS_WAITING = deliveries.c.finished_at.is_(None)


@dataclass(frozen=True)
class Channel:
    id: int
    user_id: int
    kind: str
    url: str | None
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None
    failures: int  # attempts in a row that failed


@dataclass(frozen=True)
class ChannelDelivery:
    """The delivery of one notification over one channel, with its last attempt."""

    id: int
    seq: int | None  # None: a test
    attempts: int
    attempted_at: datetime | None
    status: int | None
    error: str | None
    finished_at: datetime | None


@dataclass(frozen=True)
class Item:
    """A notification to be delivered, as far as messages contain it."""

    seq: int | None  # None: a test
    type: str
    title: str
    data: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class ChannelLease:
    """The exclusive right to send the next message of a channel, which contains these notifications."""

    channel: Channel
    token: str
    secret: bytes | None
    recipient: str | None  # of a mail
    delivery_ids: list[int]  # the first one identifies the message
    items: list[Item]
    attempt: int  # 1, 2, ...

    @property
    def is_test(self) -> bool:
        return [item.seq for item in self.items] == [None]

    @property
    def is_last_attempt(self) -> bool:
        return self.attempt > len(PAUSES)


_CHANNEL = tuple(channels.c[name] for name in Channel.__dataclass_fields__)
_DELIVERY = tuple(deliveries.c[name] for name in ChannelDelivery.__dataclass_fields__)


# Functions for users.


def add(connection: Connection, user_id: int, kind: str, *, url: str | None = None, token_digest: str | None = None) -> Channel:
    values = {"user_id": user_id, "kind": kind, "url": url, "token_digest": token_digest, "created_at": now(connection)}
    return Channel(*connection.execute(insert(channels).values(**values, failures=0).returning(*_CHANNEL)).one())


def save_secret(connection: Connection, channel_id: int, secret: bytes) -> None:
    connection.execute(update(channels).where(channels.c.id == channel_id).values(secret=secret))


def list_by_user(connection: Connection, user_id: int) -> list[Channel]:
    mine = select(*_CHANNEL).where(channels.c.user_id == user_id).order_by(channels.c.id)
    return [Channel(*row) for row in connection.execute(mine)]


def find(connection: Connection, user_id: int, channel_id: int) -> Channel | None:
    row = connection.execute(select(*_CHANNEL).where(_is_own(user_id, channel_id))).first()
    return Channel(*row) if row else None


def find_feed(connection: Connection, token_digest: str) -> Channel | None:
    row = connection.execute(select(*_CHANNEL).where(channels.c.token_digest == token_digest)).first()
    return Channel(*row) if row else None


def disable(connection: Connection, user_id: int, channel_id: int, reason: str) -> bool:
    """Let no further delivery start. Return False if the user has no such channel."""
    values = {"disabled_at": now(connection), "disabled_reason": reason, "next_at": None}
    return connection.execute(update(channels).where(_is_own(user_id, channel_id)).values(values)).rowcount == 1


def is_delivering(connection: Connection, channel: Channel) -> bool:
    """Return whether a worker may be sending a message of a channel: it has begun recently and not finished."""
    earliest = now(connection) - MAX_ATTEMPT_DURATION
    has_lease = channels.c.leased_until > earliest + LEASE_DURATIONS[channel.kind]
    return connection.execute(select(channels.c.id).where(channels.c.id == channel.id, has_lease)).first() is not None


def delete_channel(connection: Connection, channel_id: int) -> None:
    connection.execute(delete(channels).where(channels.c.id == channel_id))


def list_deliveries(connection: Connection, channel_id: int) -> list[ChannelDelivery]:
    """Return the newest deliveries of a channel, newest first."""
    newest = select(*_DELIVERY).where(deliveries.c.channel_id == channel_id).order_by(deliveries.c.id.desc()).limit(MAX_LISTED)
    return [ChannelDelivery(*row) for row in connection.execute(newest)]


def add_test(connection: Connection, channel_id: int) -> ChannelDelivery:
    """Add a delivery without a notification, which does not wait for failing ones. Return the one that waits, if there is one."""
    _lock(connection, channels.c.id == channel_id)
    is_test = (deliveries.c.channel_id == channel_id) & deliveries.c.seq.is_(None)
    row = connection.execute(select(*_DELIVERY).where(is_test, _IS_WAITING)).first()
    if row is None:
        timestamp = now(connection)
        values = {"channel_id": channel_id, "due_at": timestamp, "attempts": 0}
        row = connection.execute(insert(deliveries).values(values).returning(*_DELIVERY)).one()
        connection.execute(update(channels).where(channels.c.id == channel_id).values(next_at=timestamp))
    return ChannelDelivery(*row)


# Functions for transactions that add notifications.


def enqueue(connection: Connection, added: Sequence[tuple[int, int]]) -> None:
    """Add the deliveries of new notifications, given by user ID and number. The caller has locked the inboxes of the users."""
    users_of_added = {user_id for user_id, _ in added}
    active = channels.c.user_id.in_(users_of_added) & channels.c.disabled_at.is_(None) & (channels.c.kind != FEED)
    found = _lock(connection, active)
    if not found:
        return
    timestamp = now(connection)
    rows = [
        {"channel_id": channel.id, "seq": seq, "due_at": timestamp, "attempts": 0}
        for user_id, seq in added
        for channel in found
        if channel.user_id == user_id
    ]
    connection.execute(insert(deliveries), rows)
    _wake(connection, [channel.id for channel in found])


# Functions for workers.


def claim(connection: Connection, *, failing_too: bool) -> ChannelLease | None:
    """Lease the channel that waits the longest. `failing_too` includes channels whose last attempt failed."""
    timestamp = now(connection)
    is_free = or_(channels.c.leased_until.is_(None), channels.c.leased_until < timestamp)
    is_due = (channels.c.next_at <= timestamp) & channels.c.disabled_at.is_(None) & is_free
    if not failing_too:
        is_due &= channels.c.failures == 0
    columns = *_CHANNEL, channels.c.secret, channels.c.not_before
    due = select(*columns).where(is_due).order_by(channels.c.next_at).limit(1).with_for_update(skip_locked=True)
    while row := connection.execute(due).first():
        channel = Channel(*row[: len(_CHANNEL)])
        head, next_at = _next(connection, channel.id, row.not_before, timestamp)
        if head is None:
            connection.execute(update(channels).where(channels.c.id == channel.id).values(next_at=next_at))
            continue
        ids = _batch(connection, channel.id, head) if channel.kind == EMAIL else [head.id]
        items = _items(connection, channel.user_id, ids) if head.seq else [_test(timestamp)]
        if not items:
            _finish_all(connection, deliveries.c.id.in_(ids), timestamp, "The notification has been deleted.")
            continue
        token = secrets.token_hex(16)
        values = {"lease": token, "leased_until": timestamp + LEASE_DURATIONS[channel.kind]}
        connection.execute(update(channels).where(channels.c.id == channel.id).values(values))
        email = select(users.c.email).where(users.c.id == channel.user_id)
        recipient = connection.execute(email).scalar_one() if channel.kind == EMAIL else None
        return ChannelLease(channel, token, row.secret, recipient, ids, items, head.attempts + 1)
    return None


def release(connection: Connection, lease: ChannelLease, delay: timedelta) -> None:
    """Give up a lease without an attempt. The next worker tries after the delay."""
    values = {"lease": None, "leased_until": None, "next_at": now(connection) + delay}
    connection.execute(update(channels).where(_holds(lease), channels.c.disabled_at.is_(None)).values(values))


def succeed(connection: Connection, lease: ChannelLease, status: int | None) -> None:
    if not _lock(connection, _holds(lease)):
        return
    timestamp = now(connection)
    _record(connection, lease, timestamp, status=status, error=None, finished_at=timestamp)
    not_before = timestamp + MAIL_INTERVAL if lease.channel.kind == EMAIL else None
    _finish(connection, lease, timestamp, failures=0, not_before=not_before)


def fail(connection: Connection, lease: ChannelLease, status: int | None, error: str) -> None:
    """Store a failed attempt, which is repeated after a pause. Tests are not repeated."""
    if not _lock(connection, _holds(lease)):
        return
    timestamp = now(connection)
    changes: dict[str, Any] = {"finished_at": timestamp} if lease.is_test else {"due_at": timestamp + PAUSES[lease.attempt - 1]}
    _record(connection, lease, timestamp, status=status, error=error[:MAX_ERROR_LENGTH], **changes)
    failures = lease.channel.failures if lease.is_test else lease.channel.failures + 1
    _finish(connection, lease, timestamp, failures=failures)


def give_up(connection: Connection, lease: ChannelLease, status: int | None, error: str) -> bool:
    """Store the last failed attempt and disable the channel. Return False if the lease is lost, or the user has disabled it.

    The caller has locked the inbox of the user.
    """
    if not _lock(connection, _holds(lease) & channels.c.disabled_at.is_(None)):
        return False
    timestamp = now(connection)
    _record(connection, lease, timestamp, status=status, error=error[:MAX_ERROR_LENGTH], finished_at=timestamp)
    _finish_all(connection, deliveries.c.channel_id == lease.channel.id, timestamp, "The channel was disabled.")
    values = {"disabled_at": timestamp, "disabled_reason": error[:MAX_ERROR_LENGTH], "next_at": None}
    released = {"lease": None, "leased_until": None}
    connection.execute(update(channels).where(channels.c.id == lease.channel.id).values(values | released))
    return True


# Functions for periodic tasks.


def purge(connection: Connection, limit: int) -> int:
    """Delete up to `limit` deliveries that finished long ago, and return their number."""
    return delete_batch(connection, deliveries, limit, deliveries.c.finished_at < now(connection) - RETENTION)


def secrets_after(connection: Connection, channel_id: int, limit: int) -> list[tuple[int, bytes]]:
    """Return the IDs and encrypted secrets of the channels after an ID."""
    columns = select(channels.c.id, channels.c.secret).where(channels.c.id > channel_id, channels.c.secret.is_not(None))
    return [(row.id, row.secret) for row in connection.execute(columns.order_by(channels.c.id).limit(limit))]


def replace_secret(connection: Connection, channel_id: int, old: bytes, new: bytes) -> None:
    is_unchanged = (channels.c.id == channel_id) & (channels.c.secret == old)
    connection.execute(update(channels).where(is_unchanged).values(secret=new))


def _is_own(user_id: int, channel_id: int) -> ColumnElement[bool]:
    return (channels.c.id == channel_id) & (channels.c.user_id == user_id)


def _holds(lease: ChannelLease) -> ColumnElement[bool]:
    return (channels.c.id == lease.channel.id) & (channels.c.lease == lease.token)


def _lock(connection: Connection, condition: ColumnElement[bool]) -> list[Any]:
    """Lock channels, so that `next_at` is computed by one transaction at a time. Return their ID and user ID."""
    found = select(channels.c.id, channels.c.user_id).where(condition).order_by(channels.c.id)
    return list(connection.execute(found.with_for_update(key_share=True)))


def _wake(connection: Connection, channel_ids: Sequence[int]) -> None:
    """Let workers find channels that have had nothing to deliver. The caller has locked them."""
    timestamp = now(connection)
    next_at = case((channels.c.not_before > timestamp, channels.c.not_before), else_=timestamp)
    idle = channels.c.id.in_(channel_ids) & channels.c.next_at.is_(None)
    connection.execute(update(channels).where(idle).values(next_at=next_at))


def _next(
    connection: Connection, channel_id: int, not_before: datetime | None, timestamp: datetime
) -> tuple[Any, datetime | None]:
    """Return the delivery that can start, or else None and when one can, which is None if there is none."""
    columns = deliveries.c.id, deliveries.c.seq, deliveries.c.batch, deliveries.c.attempts, deliveries.c.due_at
    waiting = select(*columns, deliveries.c.first_attempt_at).where(deliveries.c.channel_id == channel_id, _IS_WAITING)
    is_test = deliveries.c.seq.is_(None)
    rows = connection.execute(waiting.order_by(is_test.desc(), deliveries.c.id).limit(MAX_OVERTAKEN)).all()
    if rows and not_before and not_before > timestamp:
        return None, not_before
    times: list[datetime] = []
    for row in rows:
        if row.due_at <= timestamp:
            return row, None
        times.append(row.due_at)
        if row.first_attempt_at and row.first_attempt_at + HOLD > timestamp:
            times.append(row.first_attempt_at + HOLD)
            break
    return None, min(times, default=None)


def _batch(connection: Connection, channel_id: int, head: Any) -> list[int]:
    """Return the deliveries that one mail contains: all that wait, or those of the same mail if it was sent before.

    A test is a mail of its own.
    """
    if head.seq is None:
        return [head.id]
    waiting = select(deliveries.c.id).where(deliveries.c.channel_id == channel_id, _IS_WAITING, deliveries.c.seq.is_not(None))
    if head.batch is not None:
        return list(connection.execute(waiting.where(deliveries.c.batch == head.batch).order_by(deliveries.c.id)).scalars())
    new = waiting.where(deliveries.c.batch.is_(None)).order_by(deliveries.c.id).limit(MAX_IN_MAIL)
    ids = list(connection.execute(new).scalars())
    connection.execute(update(deliveries).where(deliveries.c.id.in_(ids)).values(batch=head.id))
    return ids


def _items(connection: Connection, user_id: int, delivery_ids: Sequence[int]) -> list[Item]:
    columns = notifications.c.seq, notifications.c.type, notifications.c.title, notifications.c.data, notifications.c.created_at
    seqs = select(deliveries.c.seq).where(deliveries.c.id.in_(delivery_ids))
    mine = select(*columns).where(notifications.c.user_id == user_id, notifications.c.seq.in_(seqs))
    return [Item(*row) for row in connection.execute(mine.order_by(notifications.c.seq))]


def _test(timestamp: datetime) -> Item:
    return Item(None, "test", "This is a test. Notifications of RepoRadar arrive here.", {}, timestamp)


def _finish_all(connection: Connection, condition: ColumnElement[bool], timestamp: datetime, error: str) -> None:
    """Finish deliveries that wait, without an attempt."""
    connection.execute(update(deliveries).where(condition, _IS_WAITING).values(finished_at=timestamp, error=error))


def _record(connection: Connection, lease: ChannelLease, timestamp: datetime, **values: Any) -> None:
    first = func.coalesce(deliveries.c.first_attempt_at, timestamp)
    attempt = {"attempts": lease.attempt, "attempted_at": timestamp, "first_attempt_at": first}
    connection.execute(update(deliveries).where(deliveries.c.id.in_(lease.delivery_ids)).values(attempt | values))


def _finish(
    connection: Connection, lease: ChannelLease, timestamp: datetime, *, failures: int, not_before: datetime | None = None
) -> None:
    """Release a channel that the caller has locked. A channel that was disabled in the meantime stays disabled."""
    this = channels.c.id == lease.channel.id
    head, next_at = _next(connection, lease.channel.id, not_before, timestamp)
    is_disabled = connection.execute(select(channels.c.disabled_at).where(this)).scalar_one() is not None
    values: dict[str, Any] = {
        "failures": failures,
        "lease": None,
        "leased_until": None,
        "next_at": None if is_disabled else next_at if head is None else timestamp,
    }
    if not_before is not None:
        values["not_before"] = not_before
    # One statement: PostgreSQL would check the reference to the user, and wait for its lock, when a row is updated again.
    connection.execute(update(channels).where(this).values(values))
