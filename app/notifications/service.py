"""Notifications are stored first and then pushed. The row in SQL is authoritative, and a push is best effort."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection

from app.core.batch_loader import BatchLoader
from app.core.errors import NotFound, Unavailable
from app.core.messages import TRACEPARENT, Message, Publish, user_room
from app.core.spans import current_traceparent
from app.database.batches import run_batches
from app.database.engine import Database
from app.database.locks import lock_user
from app.notifications import store
from app.notifications.delivery import MAX_SEQ, Emit, NotificationDelivery
from app.notifications.store import Inbox, Notification, Page
from app.notifications.subscription import TYPES, Subscription

__all__ = ["TYPES", "Inbox", "Notification", "Notifications", "Page", "Subscription"]

PAGE_SIZE = 100
PURGED_USERS, PURGE_BATCH, PURGE_SECONDS = 200, 2000, 5.0


class Notifications:
    def __init__(self, database: Database, publish: Publish) -> None:
        """`publish` is best effort: the maintenance loop of each instance finds notifications whose message was lost."""
        self._database = database
        self._publish = publish
        self._purged_up_to = 0  # the ID of a user
        # When many clients reconnect at once, requests need database connections too.
        self._missed: BatchLoader[tuple[int, int], Page] = BatchLoader(lambda asked: database.run(self.read_missed, asked))

    def add(
        self, connection: Connection, user_ids: Iterable[int], type: str, title: str, data: dict[str, Any]
    ) -> list[Notification]:
        """Store notifications in the caller's transaction. The caller pushes them after the commit."""
        return store.add(connection, user_ids, type, title, data)

    def lock(self, connection: Connection, user_ids: Iterable[int]) -> None:
        """Lock the inboxes of all users to whom the caller's transaction adds notifications in several calls of `add`."""
        store.lock(connection, user_ids)

    def push(self, notifications: Iterable[Notification]) -> None:
        self._publish([_message(one.user_id, "notification", item=one.payload()) for one in notifications])

    def publish_analysis(self, user_ids: Sequence[int], analysis: dict[str, Any]) -> None:
        """Send the state of an analysis to followers of its repository. It is not stored; the next state supersedes it."""
        self._publish([_message(user_id, "analysis", analysis=analysis) for user_id in user_ids])

    def publish_export(self, user_id: int, export: dict[str, Any]) -> None:
        """Send the state of an export to the user who requested it. It is not stored."""
        self._publish([_message(user_id, "export", export=export)])

    def send(self, user_id: int, type: str, title: str, data: dict[str, Any]) -> Notification:
        """Store and push one notification. Raises NotFound if the account has been deleted."""
        added = self._database.run(store.add, [user_id], type, title, data)
        if not added:
            raise NotFound("This account has been deleted.")
        self.push(added)
        return added[0]

    def inbox(self, user_id: int) -> Inbox:
        return self._database.run(store.inbox, user_id)

    def heads(self, user_ids: Sequence[int]) -> dict[int, int]:
        return self._database.run(store.heads, user_ids)

    def after(self, user_id: int, seq: int, limit: int = PAGE_SIZE) -> Page:
        return self._database.run(store.page, user_id, seq, limit)

    def before(self, user_id: int, seq: int, limit: int = PAGE_SIZE) -> list[Notification]:
        """Return the notifications before a number, newest first."""
        return self._database.run(store.before, user_id, seq, limit)

    def read_missed(self, connection: Connection, asked: Sequence[tuple[int, int | None]]) -> list[Page]:
        """Return the page after a number for each of several pairs of a user ID and a number; None for the latest number."""
        return store.pages(connection, [(user, MAX_SEQ if after is None else after) for user, after in asked], PAGE_SIZE)

    def create_delivery(
        self, user_id: int, after: int | None, *, emit: Emit, is_congested: Callable[[], bool], ready_payload: dict[str, Any]
    ) -> NotificationDelivery:
        def read(seq: int) -> Page:
            return self._missed.get((user_id, seq))

        return NotificationDelivery(read, after, emit, is_congested, ready_payload)

    def mark_read(self, user_id: int, up_to: int) -> None:
        self._publish_read(user_id, self._database.run(store.mark_read, user_id, up_to))

    def mark_opened(self, user_id: int, field: str, value: int | None) -> None:
        """Mark the notifications about something as read, because the user opens it: `field` of their data is `value`, or is set.

        Best effort: it can also be opened while the database is read-only.
        """
        with suppress(Unavailable):
            self._publish_read(user_id, self._database.run(_mark_opened, user_id, field, value))

    def default_subscriptions(self, connection: Connection, user_ids: Iterable[int]) -> dict[int, dict[str, bool]]:
        """Return for each user which types of notifications are on by default."""
        chosen = store.subscriptions(connection, list(user_ids))
        return {user_id: Subscription.of(chosen.get(user_id), {}).types for user_id in user_ids}

    def subscription(self, user_id: int) -> Subscription:
        """Return which types of notifications a user gets by default."""
        return self._database.run(_subscription, user_id)

    def subscribe(self, user_id: int, types: Mapping[str, bool], *, inherit: bool) -> Subscription:
        """Choose the types of notifications that a user gets by default. Raises Invalid."""
        return self._database.run(_subscribe, user_id, types, inherit)

    def erase_account(self, connection: Connection, user_id: int) -> None:
        """Delete all notifications of an account in the transaction that deletes the account."""
        store.delete_all(connection, user_id)

    def purge(self) -> bool:
        """Delete expired notifications for a while. Return whether the next call has to continue."""
        return run_batches(self._purge_batch)

    def _publish_read(self, user_id: int, inbox: Inbox | None) -> None:
        if inbox:
            self._publish([_message(user_id, "read", read=inbox.read_state())])

    def _purge_batch(self) -> bool:
        arguments = self._purged_up_to, PURGED_USERS, PURGE_BATCH
        count, last_user = self._database.run_within(PURGE_SECONDS, store.purge_next, *arguments)
        if count < PURGE_BATCH:
            self._purged_up_to = last_user or 0
        return last_user is not None


def _mark_opened(connection: Connection, user_id: int, field: str, value: int | None) -> Inbox | None:
    opened = store.find_unread(connection, user_id, field, value)
    return store.mark_read(connection, user_id, 0, opened) if opened else None


def _subscription(connection: Connection, user_id: int) -> Subscription:
    return Subscription.of(store.subscriptions(connection, [user_id]).get(user_id), {})


def _subscribe(connection: Connection, user_id: int, types: Mapping[str, bool], inherit: bool) -> Subscription:
    lock_user(connection, user_id)
    chosen = _subscription(connection, user_id).change(types, {}, inherit=inherit)
    store.save_subscription(connection, user_id, None if chosen.inherited else chosen.types)
    return chosen


def _message(user_id: int, kind: str, **data: Any) -> Message:
    if traceparent := current_traceparent():
        data[TRACEPARENT] = traceparent
    return Message(user_room(user_id), kind, {"user_id": user_id, **data})
