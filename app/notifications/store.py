"""Notifications in SQL: numbered rows, and a row per user, the inbox, that gives out the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from app.core.timestamps import iso
from app.database.schema import inboxes, notifications, users
from app.database.upsert import insert_into

KEPT_AT_LEAST = 1000  # of each user, however old
KEPT_FOR = timedelta(days=7)
BATCH = 1000  # users in one statement


@dataclass(frozen=True)
class Notification:
    user_id: int
    seq: int  # 1, 2, 3, ... per user, without a hole
    type: str
    title: str
    data: dict[str, Any]
    created_at: datetime

    def payload(self) -> dict[str, Any]:
        """What a client gets."""
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
    """What follows a number, oldest first, and may not be all of it. Not `recovered`: something between is no longer kept."""

    items: list[Notification]
    head: int
    recovered: bool


def add(connection: Connection, user_ids: Iterable[int], type: str, title: str, data: dict[str, Any]) -> list[Notification]:
    """One for each of the users who exist. Their inboxes stay locked until the transaction ends, in the order of their ids, so
    that numbers become visible in their order and two who notify the same users can't wait for each other."""
    now = datetime.now(UTC)
    # The lock keeps their accounts from being deleted before this transaction ends.
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
    return (user_ids[start : start + BATCH] for start in range(0, len(user_ids), BATCH))


def _next_numbers(connection: Connection, user_ids: Sequence[int]) -> Any:
    """One for each; the rows are locked in the order of the list."""
    first = insert_into(connection, inboxes).values([{"user_id": user_id, "head": 1, "read_up_to": 0} for user_id in user_ids])
    next_one = first.on_conflict_do_update(index_elements=["user_id"], set_={"head": inboxes.c.head + 1})
    return next_one.returning(inboxes.c.user_id, inboxes.c.head)


def inbox(connection: Connection, user_id: int) -> Inbox:
    row = connection.execute(select(inboxes.c.head, inboxes.c.read_up_to).where(inboxes.c.user_id == user_id)).first()
    return Inbox(*row) if row else Inbox()


def heads(connection: Connection, user_ids: Sequence[int]) -> dict[int, int]:
    """Of those users who have notifications."""
    rows = connection.execute(select(inboxes.c.user_id, inboxes.c.head).where(inboxes.c.user_id.in_(user_ids)))
    return {row.user_id: row.head for row in rows}


def after(connection: Connection, user_id: int, seq: int, limit: int) -> list[Notification]:
    """Oldest first."""
    mine = select(notifications).where(notifications.c.user_id == user_id, notifications.c.seq > seq)
    return [Notification(**row) for row in connection.execute(mine.order_by(notifications.c.seq).limit(limit)).mappings()]


def page(connection: Connection, user_id: int, seq: int, limit: int) -> Page:
    head = inbox(connection, user_id).head
    items = after(connection, user_id, seq, limit)
    if items:
        without_a_hole = items[-1].seq - seq == len(items)
        return Page(items, max(head, items[-1].seq), recovered=without_a_hole)
    return Page([], head, recovered=seq == head)


def before(connection: Connection, user_id: int, seq: int, limit: int) -> list[Notification]:
    """Newest first."""
    mine = select(notifications).where(notifications.c.user_id == user_id, notifications.c.seq < seq)
    return [Notification(**row) for row in connection.execute(mine.order_by(notifications.c.seq.desc()).limit(limit)).mappings()]


def mark_read(connection: Connection, user_id: int, up_to: int) -> None:
    """Never beyond what there is, and never back."""
    known = inboxes.c.user_id == user_id, inboxes.c.read_up_to < up_to
    connection.execute(update(inboxes).where(*known, inboxes.c.head >= up_to).values(read_up_to=up_to))
    connection.execute(update(inboxes).where(*known, inboxes.c.head < up_to).values(read_up_to=inboxes.c.head))


def purge(connection: Connection, limit: int) -> int:
    """Deletes so many at most of those that need not be kept; returns how many."""
    old = (
        select(notifications.c.user_id, notifications.c.seq)
        .join(inboxes, inboxes.c.user_id == notifications.c.user_id)
        .where(notifications.c.created_at < datetime.now(UTC) - KEPT_FOR)
        .where(notifications.c.seq <= inboxes.c.head - KEPT_AT_LEAST)
        .order_by(notifications.c.user_id, notifications.c.seq)
        .limit(limit)
        .subquery()
    )
    here = (notifications.c.user_id == old.c.user_id) & (notifications.c.seq == old.c.seq)
    doomed = select(func.count()).select_from(old).where(here).correlate(notifications).scalar_subquery()
    return connection.execute(delete(notifications).where(doomed > 0)).rowcount
