"""Delivery of a user's notifications to one socket: each of them once, in order.

A cursor holds the number of the last notification that was sent, and one greenlet at a time sends. A published notification
is sent at once only if it has the next number. Any other number makes the greenlet read the missing ones from the database.
"""

from collections.abc import Callable
from typing import Any

import gevent

from app.core.errors import Unavailable
from app.notifications.store import Page

CONGESTION_RETRY_SECONDS = 0.05
DATABASE_RETRY_SECONDS = 0.5
MAX_SEQ = 2**63 - 1  # reading after this number returns no notifications, only the head

Emit = Callable[[str, dict[str, Any]], None]


class NotificationDelivery:
    def __init__(
        self,
        read_after: Callable[[int], Page],
        after: int | None,
        emit: Emit,
        is_congested: Callable[[], bool],
        ready_payload: dict[str, Any],
    ) -> None:
        """`read_after` raises Unavailable. `after` is the last number that the client has, or None to start with the next one.
        `ready_payload` is added to the event `ready`."""
        self._read_after = read_after
        self._after = after
        self._emit = emit
        self._is_congested = is_congested
        self._ready_payload = ready_payload
        self._first_page: Page | None = None
        self._cursor: int | None = None
        self._target = 0
        self._is_sending = False
        self._is_closed = False

    def start(self, first_page: Page | None = None) -> None:
        """Begin. `first_page` is the first one to send, read when messages to the user already arrived; None to read it now."""
        self._first_page = first_page
        self._start_sending()

    def deliver(self, payload: dict[str, Any]) -> None:
        """Deliver a published notification."""
        is_next = self._cursor is not None and payload["seq"] == self._cursor + 1
        if is_next and not self._is_sending and not self._is_congested():
            self._send(payload)
        else:
            self.catch_up(payload["seq"])

    def catch_up(self, head: int) -> None:
        """Deliver all notifications up to the number `head`."""
        self._target = max(self._target, head)
        if self._cursor is not None and self._target > self._cursor:
            self._start_sending()

    def close(self) -> None:
        self._is_closed = True

    def _start_sending(self) -> None:
        if not self._is_sending:
            self._is_sending = True
            gevent.spawn(self._run)

    def _run(self) -> None:
        try:
            if self._cursor is None:
                self._open()
            while self._cursor is not None and self._target > self._cursor and not self._is_closed:
                page = self._read(self._cursor)
                if page.recovered and page.items:
                    self._send_page(page)
                elif page.recovered:  # the target does not exist
                    self._target = self._cursor
                else:
                    self._after = self._cursor
                    self._open()
        finally:
            self._is_sending = False

    def _open(self) -> None:
        """Send the missed notifications, then `ready`."""
        last = self._read(MAX_SEQ) if self._after is None else self._send_missed(self._after)
        recovered = self._after is None or last.recovered
        self._cursor = last.head
        read = {"read_up_to": last.inbox.read_up_to, "also_read": list(last.inbox.also_read)}
        self._emit("ready", {**self._ready_payload, "head": last.head, "recovered": recovered, **read})

    def _send_missed(self, cursor: int) -> Page:
        """Send the notifications after a number. Return the last page, which is not recovered if some have been purged."""
        while not self._is_closed:
            page = self._read(cursor)
            if not page.recovered or not page.items:
                return page
            self._send_page(page)
            cursor = page.items[-1].seq
            if cursor == page.head:
                return page
        return Page([], cursor, recovered=True)

    def _read(self, cursor: int) -> Page:
        """Wait until the client has taken what was sent before and the database answers, and return the next page."""
        while not self._is_closed:
            if self._is_congested():
                gevent.sleep(CONGESTION_RETRY_SECONDS)
                continue
            if page := self._first_page:
                self._first_page = None
                return page
            try:
                return self._read_after(cursor)
            except Unavailable:
                gevent.sleep(DATABASE_RETRY_SECONDS)
        return Page([], cursor, recovered=True)

    def _send_page(self, page: Page) -> None:
        for notification in page.items:
            self._send(notification.payload())

    def _send(self, payload: dict[str, Any]) -> None:
        self._cursor = payload["seq"]
        self._emit("notification", payload)
