"""Notifications: stored first, then pushed. The row is the truth; a push only wakes those who read it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from app.core.messages import Message, Publish, user_room
from app.database.engine import Database
from app.notifications import store
from app.notifications.delivery import Emit, NotificationDelivery
from app.notifications.store import Inbox, Notification, Page

__all__ = ["Inbox", "Notification", "Notifications", "Page"]

PAGE = 100
PURGE_BATCH = 10_000
CAUGHT_UP_AT_ONCE = 2


class Notifications:
    def __init__(self, database: Database, publish: Publish) -> None:
        """`publish` neither raises nor waits: what it loses is found by the instances' own looking after."""
        self._database = database
        self._publish = publish
        # Sockets that come back together catch up in turns, so that connections to the database are left for requests.
        self._catching_up = threading.BoundedSemaphore(CAUGHT_UP_AT_ONCE)

    def add(
        self, connection: Connection, user_ids: Iterable[int], type: str, title: str, data: dict[str, Any]
    ) -> list[Notification]:
        """As part of the caller's transaction, after which they are to be pushed."""
        return store.add(connection, user_ids, type, title, data)

    def push(self, notifications: Iterable[Notification]) -> None:
        self._publish([_message(one.user_id, "notification", item=one.payload()) for one in notifications])

    def publish_analysis(self, user_ids: Sequence[int], analysis: dict[str, Any]) -> None:
        """The state of an analysis, to those who follow its repository. Not stored: the next one makes up for a lost one."""
        self._publish([_message(user_id, "analysis", analysis=analysis) for user_id in user_ids])

    def publish_export(self, user_id: int, export: dict[str, Any]) -> None:
        """The state of an export, to whoever asked for it. Not stored either."""
        self._publish([_message(user_id, "export", export=export)])

    def send(self, user_id: int, type: str, title: str, data: dict[str, Any]) -> Notification:
        """Stores and pushes one to one user."""
        (notification,) = self._database.run(store.add, [user_id], type, title, data)
        self.push([notification])
        return notification

    def inbox(self, user_id: int) -> Inbox:
        return self._database.run(store.inbox, user_id)

    def heads(self, user_ids: Sequence[int]) -> dict[int, int]:
        return self._database.run(store.heads, user_ids)

    def after(self, user_id: int, seq: int, limit: int = PAGE) -> Page:
        return self._database.run(store.page, user_id, seq, limit)

    def before(self, user_id: int, seq: int, limit: int = PAGE) -> list[Notification]:
        """Newest first."""
        return self._database.run(store.before, user_id, seq, limit)

    def create_delivery(
        self, user_id: int, after: int | None, *, emit: Emit, is_congested: Callable[[], bool], ready_payload: dict[str, Any]
    ) -> NotificationDelivery:
        def read(seq: int) -> Page:
            with self._catching_up:
                return self.after(user_id, seq)

        return NotificationDelivery(read, after, emit, is_congested, ready_payload)

    def mark_read(self, user_id: int, up_to: int) -> None:
        self._database.run(store.mark_read, user_id, up_to)

    def purge(self) -> int:
        """Deletes what is too old; a part of it, where there is much. Returns how many."""
        return self._database.run(store.purge, PURGE_BATCH)


def _message(user_id: int, kind: str, **message: Any) -> Message:
    return Message(user_room(user_id), kind, {"user_id": user_id, **message})
