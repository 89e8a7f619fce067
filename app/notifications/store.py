"""Notifications in SQL: numbered rows, and one row per user, the inbox, with the last number that was assigned."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from app.core.timestamps import iso
from app.database.batches import is_in_batch
from app.database.schema import inboxes, notifications, users
from app.database.upsert import insert_into

MIN_KEPT_PER_USER = 1000
RETENTION = timedelta(days=7)
USERS_PER_STATEMENT = 1000
MAX_ID = 2**63 - 1


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

    @property
    def unread(self) -> int:
        return self.head - self.read_up_to


@dataclass(frozen=True)
class Page:
    """The notifications after a number, oldest first, up to a limit. `recovered` is False if some of them have been purged."""

    items: list[Notification]
    head: int
    recovered: bool


def add(connection: Connection, user_ids: Iterable[int], type: str, title: str, data: dict[str, Any]) -> list[Notification]:
    """Add a notification for each of the users who exist.

    The inboxes are locked in the order of user IDs until the transaction ends. So numbers are committed in order, and two
    transactions that notify the same users cannot deadlock.
    """
    now = datetime.now(UTC)
    # The lock prevents the deletion of these accounts before the transaction ends.
    existing = select(users.c.id).where(users.c.id.in_(user_ids)).order_by(users.c.id).with_for_update(read=True, key_share=True)
    added = [
        Notification(user_id, seq, type, title, data, now)
        for batch in _batches(list(connection.execute(existing).scalars()))
        for user_id, seq in connection.execute(_next_numbers(connection, batch))
    ]
    if added:
        connection.execute(insert(notifications), [vars(notification) for notification in added])
    return added


def _batches(user_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (user_ids[start : start + USERS_PER_STATEMENT] for start in range(0, len(user_ids), USERS_PER_STATEMENT))


def _next_numbers(connection: Connection, user_ids: Sequence[int]) -> Any:
    """Return a statement that assigns each user the next number. It locks the inboxes in the order of the list."""
    first = insert_into(connection, inboxes).values([{"user_id": user_id, "head": 1, "read_up_to": 0} for user_id in user_ids])
    following = first.on_conflict_do_update(index_elements=["user_id"], set_={"head": inboxes.c.head + 1})
    return following.returning(inboxes.c.user_id, inboxes.c.head)


def inbox(connection: Connection, user_id: int) -> Inbox:
    row = connection.execute(select(inboxes.c.head, inboxes.c.read_up_to).where(inboxes.c.user_id == user_id)).first()
    return Inbox(*row) if row else Inbox()


def heads(connection: Connection, user_ids: Sequence[int]) -> dict[int, int]:
    """Return the number of the last notification of each user who has one."""
    rows = connection.execute(select(inboxes.c.user_id, inboxes.c.head).where(inboxes.c.user_id.in_(user_ids)))
    return {row.user_id: row.head for row in rows}


def after(connection: Connection, user_id: int, seq: int, limit: int) -> list[Notification]:
    """Return the notifications after a number, oldest first."""
    mine = select(notifications).where(notifications.c.user_id == user_id, notifications.c.seq > seq)
    return [Notification(**row) for row in connection.execute(mine.order_by(notifications.c.seq).limit(limit)).mappings()]


def page(connection: Connection, user_id: int, seq: int, limit: int) -> Page:
    head = inbox(connection, user_id).head
    items = after(connection, user_id, seq, limit)
    if items:
        has_no_gap = items[-1].seq - seq == len(items)
        return Page(items, max(head, items[-1].seq), recovered=has_no_gap)
    return Page([], head, recovered=seq == head)


def before(connection: Connection, user_id: int, seq: int, limit: int) -> list[Notification]:
    """Return the notifications before a number, newest first."""
    mine = select(notifications).where(notifications.c.user_id == user_id, notifications.c.seq < seq)
    return [Notification(**row) for row in connection.execute(mine.order_by(notifications.c.seq.desc()).limit(limit)).mappings()]


def mark_read(connection: Connection, user_id: int, up_to: int) -> None:
    """Move the read mark forward, to the last notification at most. It never moves back."""
    behind = inboxes.c.user_id == user_id, inboxes.c.read_up_to < up_to
    connection.execute(update(inboxes).where(*behind, inboxes.c.head >= up_to).values(read_up_to=up_to))
    connection.execute(update(inboxes).where(*behind, inboxes.c.head < up_to).values(read_up_to=inboxes.c.head))


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
