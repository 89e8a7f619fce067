"""Notifications in SQL: numbered rows, and one row per user, the inbox, with the last number that was assigned."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    String,
    TextualSelect,
    cast,
    column,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from app.core.timestamps import iso
from app.database.batches import is_in_batch
from app.database.schema import inboxes, notifications, users
from app.database.upsert import insert_into
from app.notifications import channel_store

MIN_KEPT_PER_USER = 1000
RETENTION = timedelta(days=7)
USERS_PER_STATEMENT = 1000
MAX_READ_TOGETHER = 2000  # notifications of several users
MAX_ID = 2**63 - 1
MAX_ALSO_READ = 500  # beyond that, older notifications count as read


@dataclass(frozen=True)
class Notification:
    user_id: int
    seq: int  # 1, 2, 3, ... per user, without gaps
    type: str
    title: str
    data: dict[str, Any]
    created_at: datetime

    def payload(self) -> dict[str, Any]:
        """Return the JSON form, which the API and the sockets send."""
        return {
            "seq": self.seq,
            "type": self.type,
            "title": self.title,
            "data": self.data,
            "created_at": iso(self.created_at),
        }


@dataclass(frozen=True)
class Inbox:
    head: int = 0  # the number of the last notification
    read_up_to: int = 0
    also_read: tuple[int, ...] = ()  # the numbers after `read_up_to` that were read, in order

    @property
    def unread(self) -> int:
        return self.head - self.read_up_to - len(self.also_read)

    def has_read(self, seq: int) -> bool:
        return seq <= self.read_up_to or seq in self.also_read

    def read(self, up_to: int, opened: Iterable[int] = ()) -> "Inbox":
        """Return the inbox after all notifications up to a number were read, and some others. A read one stays read."""
        reached = max(self.read_up_to, min(up_to, self.head))
        also_read = sorted({seq for seq in (*self.also_read, *opened) if reached < seq <= self.head})
        if len(also_read) > MAX_ALSO_READ:
            reached = also_read[-MAX_ALSO_READ - 1]
            also_read = also_read[-MAX_ALSO_READ:]
        while also_read and also_read[0] == reached + 1:
            reached = also_read.pop(0)
        return Inbox(self.head, reached, tuple(also_read))

    def read_state(self) -> dict[str, Any]:
        """Return the payload of the event `read`."""
        return {"up_to": self.read_up_to, "also_read": list(self.also_read)}


@dataclass(frozen=True)
class Page:
    """The notifications after a number, oldest first, up to a limit. `recovered` is False if some of them have been purged."""

    items: list[Notification]
    head: int
    recovered: bool
    inbox: Inbox = Inbox()


def add(connection: Connection, user_ids: Iterable[int], type: str, title: str, data: dict[str, Any]) -> list[Notification]:
    """Add a notification for each of the users who exist, and its deliveries over their channels.

    The inboxes are locked in the order of user IDs until the transaction ends. So numbers are committed in order, and two
    transactions that notify the same users cannot deadlock.
    """
    now = datetime.now(UTC)
    added = [
        Notification(user_id, seq, type, title, data, now)
        for batch in _batches(_lock_existing(connection, user_ids))
        for user_id, seq in connection.execute(_next_numbers(connection, batch))
    ]
    if added:
        connection.execute(insert(notifications), [vars(notification) for notification in added])
        channel_store.enqueue(connection, [(notification.user_id, notification.seq) for notification in added])
    return added


def lock(connection: Connection, user_ids: Iterable[int]) -> None:
    """Lock the inboxes of those of the users who exist, in the order of user IDs, for several calls of `add`."""
    for batch in _batches(_lock_existing(connection, user_ids)):
        first = insert_into(connection, inboxes).values([{"user_id": user_id, "head": 0, "read_up_to": 0} for user_id in batch])
        connection.execute(first.on_conflict_do_update(index_elements=["user_id"], set_={"head": inboxes.c.head}))


def _lock_existing(connection: Connection, user_ids: Iterable[int]) -> list[int]:
    """Return those of the users who exist. The lock prevents the deletion of their accounts before the transaction ends."""
    existing = select(users.c.id).where(users.c.id.in_(user_ids)).order_by(users.c.id).with_for_update(read=True, key_share=True)
    return list(connection.execute(existing).scalars())


def _batches(user_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (user_ids[start : start + USERS_PER_STATEMENT] for start in range(0, len(user_ids), USERS_PER_STATEMENT))


def _next_numbers(connection: Connection, user_ids: Sequence[int]) -> Any:
    """Return a statement that assigns each user the next number. It locks the inboxes in the order of the list."""
    first = insert_into(connection, inboxes).values([{"user_id": user_id, "head": 1, "read_up_to": 0} for user_id in user_ids])
    following = first.on_conflict_do_update(index_elements=["user_id"], set_={"head": inboxes.c.head + 1})
    return following.returning(inboxes.c.user_id, inboxes.c.head)


def inbox(connection: Connection, user_id: int) -> Inbox:
    return _inbox(connection.execute(_select_inbox(user_id)).first())


def _select_inbox(user_id: int) -> Select[Any]:
    return select(inboxes.c.head, inboxes.c.read_up_to, inboxes.c.also_read).where(inboxes.c.user_id == user_id)


def _inbox(row: Any) -> Inbox:
    # An earlier version moves `read_up_to` without removing the numbers that it passes.
    return Inbox(row.head, row.read_up_to).read(0, row.also_read or ()) if row else Inbox()


def heads(connection: Connection, user_ids: Sequence[int]) -> dict[int, int]:
    """Return the number of the last notification of each user who has one."""
    rows = connection.execute(select(inboxes.c.user_id, inboxes.c.head).where(inboxes.c.user_id.in_(user_ids)))
    return {row.user_id: row.head for row in rows}


def after(connection: Connection, user_id: int, seq: int, limit: int) -> list[Notification]:
    """Return the notifications after a number, oldest first."""
    mine = select(notifications).where(notifications.c.user_id == user_id, notifications.c.seq > seq)
    return [Notification(**row) for row in connection.execute(mine.order_by(notifications.c.seq).limit(limit)).mappings()]


def page(connection: Connection, user_id: int, seq: int, limit: int) -> Page:
    found = inbox(connection, user_id)
    items = after(connection, user_id, seq, limit)
    if items:
        has_no_gap = items[-1].seq - seq == len(items)
        return Page(items, max(found.head, items[-1].seq), recovered=has_no_gap, inbox=found)
    return Page([], found.head, recovered=seq == found.head, inbox=found)


def pages(connection: Connection, asked: Sequence[tuple[int, int]], limit: int) -> list[Page]:
    """Return the page after a number for each of several pairs of a user ID and a number, with one statement for all.

    Pages are shorter than `limit` if together they could have more than MAX_READ_TOGETHER notifications.
    """
    limit = min(limit, max(1, MAX_READ_TOGETHER // len(asked)))
    found: dict[tuple[int, int], list[Any]] = {pair: [] for pair in asked}
    for row in connection.execute(_select_pages(sorted(found), limit)):
        found[row.asked_user_id, row.asked_seq].append(row)
    found_pages = {pair: _page(rows, pair[1], limit) for pair, rows in found.items()}
    return [found_pages[pair] for pair in asked]


def _select_pages(asked: Sequence[tuple[int, int]], limit: int) -> TextualSelect:
    """Return a statement that selects at least one row for each pair, with the inbox and, if there is one, a notification."""
    pairs = ", ".join(f"({user_id:d}, {seq:d}, {min(seq + limit, MAX_ID):d})" for user_id, seq in asked)
    columns = [inboxes.c.head, inboxes.c.read_up_to, inboxes.c.also_read, *notifications.c]
    # VALUES, because PostgreSQL plans and reads a condition for each pair ten times as long. Both databases name its columns so.
    return text(
        f"SELECT column1, column2, {', '.join(str(column) for column in columns)} FROM (VALUES {pairs}) AS asked"  # noqa: S608
        " LEFT JOIN inboxes ON inboxes.user_id = column1"
        " LEFT JOIN notifications ON notifications.user_id = column1 AND seq > column2 AND seq <= column3"
    ).columns(column("asked_user_id", BigInteger), column("asked_seq", BigInteger), *columns)


def _page(rows: Sequence[Any], seq: int, limit: int) -> Page:
    """Return the page after a number. If one of its notifications has been purged, it is empty and not recovered."""
    found = _inbox(rows[0]) if rows[0].head is not None else Inbox()
    items = sorted((_notification(row) for row in rows if row.seq is not None), key=lambda item: item.seq)
    is_complete = seq <= found.head and len(items) == min(limit, found.head - seq)
    return Page(items if is_complete else [], found.head, recovered=is_complete, inbox=found)


def _notification(row: Any) -> Notification:
    return Notification(row.user_id, row.seq, row.type, row.title, row.data, row.created_at)


def before(connection: Connection, user_id: int, seq: int, limit: int) -> list[Notification]:
    """Return the notifications before a number, newest first."""
    mine = select(notifications).where(notifications.c.user_id == user_id, notifications.c.seq < seq)
    return [Notification(**row) for row in connection.execute(mine.order_by(notifications.c.seq.desc()).limit(limit)).mappings()]


def mark_read(connection: Connection, user_id: int, up_to: int, opened: Iterable[int] = ()) -> Inbox | None:
    """Mark all notifications up to a number as read, and those with the numbers `opened`.

    Returns the inbox, or None if nothing has changed.
    """
    before = _inbox(connection.execute(_select_inbox(user_id).with_for_update()).first())
    after = before.read(up_to, opened)
    if after == before:
        return None
    values = {"read_up_to": after.read_up_to, "also_read": list(after.also_read) or None}
    connection.execute(update(inboxes).where(inboxes.c.user_id == user_id).values(values))
    return after


def find_unread(connection: Connection, user_id: int, field: str, value: int | None) -> list[int]:
    """Return the numbers of the unread notifications whose data contain a value, such as the ID of a repository, or any value."""
    found = inbox(connection, user_id)
    oldest = max(found.read_up_to, found.head - MIN_KEPT_PER_USER)
    found_value = cast(notifications.c.data[field].as_string(), String)  # SQLite extracts a number
    is_about = found_value.is_not(None) if value is None else found_value == str(value)
    mine = (notifications.c.user_id == user_id) & (notifications.c.seq > oldest)
    seqs = connection.execute(select(notifications.c.seq).where(mine, is_about)).scalars()
    return [seq for seq in seqs if not found.has_read(seq)]


def subscriptions(connection: Connection, user_ids: Iterable[int]) -> dict[int, dict[str, bool]]:
    """Return the default types of notifications of those of the users who have chosen some."""
    chosen = inboxes.c.subscription.is_not(None)
    rows = connection.execute(select(inboxes.c.user_id, inboxes.c.subscription).where(inboxes.c.user_id.in_(user_ids), chosen))
    return {row.user_id: row.subscription for row in rows}


def save_subscription(connection: Connection, user_id: int, types: dict[str, bool] | None) -> None:
    """Save the default types of notifications of a user. The caller has locked the user."""
    values = {"user_id": user_id, "head": 0, "read_up_to": 0, "subscription": types}
    first = insert_into(connection, inboxes).values(values)
    connection.execute(
        first.on_conflict_do_update(index_elements=["user_id"], set_={"subscription": first.excluded.subscription})
    )


def delete_all(connection: Connection, user_id: int) -> None:
    connection.execute(delete(inboxes).where(inboxes.c.user_id == user_id))
    connection.execute(delete(notifications).where(notifications.c.user_id == user_id))


def purge_next(connection: Connection, after_user: int, users: int, limit: int) -> tuple[int, int | None]:
    """Delete up to `limit` expired notifications of the next `users` users.

    Returns the number of deleted notifications, and the ID of the last of these users, or None if there is no other user.
    """
    following = select(inboxes.c.user_id).where(inboxes.c.user_id > after_user).order_by(inboxes.c.user_id).limit(users)
    last_user: int | None = connection.execute(select(func.max(following.subquery().c.user_id))).scalar()
    return (purge(connection, limit, after_user, last_user), last_user) if last_user is not None else (0, None)


def purge(connection: Connection, limit: int, after_user: int = 0, last_user: int = MAX_ID) -> int:
    """Delete up to `limit` expired notifications, of the users in this range of IDs, and return their number."""
    expired = (
        select(notifications.c.user_id, notifications.c.seq)
        .join(inboxes, inboxes.c.user_id == notifications.c.user_id)
        .where(inboxes.c.user_id > after_user, inboxes.c.user_id <= last_user)
        .where(notifications.c.user_id > after_user, notifications.c.user_id <= last_user)
        .where(notifications.c.created_at < datetime.now(UTC) - RETENTION)
        .where(notifications.c.seq <= inboxes.c.head - MIN_KEPT_PER_USER)
        .order_by(notifications.c.user_id, notifications.c.seq)
        .limit(limit)
    )
    return connection.execute(delete(notifications).where(is_in_batch(notifications, expired))).rowcount
