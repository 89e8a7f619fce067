"""Bringing a socket its notifications: all of them, once, in order.

There is one cursor, the number of the last one that was sent, and one sender. What was pushed is passed on only if it is the next
one; anything else makes the sender read what is between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent

from app.core.errors import Unavailable
from app.notifications.store import Page

log = logging.getLogger(__name__)

CONGESTION_SECONDS = 0.05
RETRY_SECONDS = 0.5
LAST_NUMBER = 2**63 - 1  # after which nothing comes: who reads from there learns the head

Emit = Callable[[str, dict[str, Any]], None]


class NotificationDelivery:
    def __init__(
        self,
        read: Callable[[int], Page],
        after: int | None,
        emit: Emit,
        is_congested: Callable[[], bool],
        ready_payload: dict[str, Any],
    ) -> None:
        """`read`: what follows a number; raises Unavailable. `after`: the last that the client has; None: from now on.
        `ready_payload` goes with the event `ready`."""
        self._read_after = read
        self._after = after
        self._emit = emit
        self._is_congested = is_congested
        self._ready_payload = ready_payload
        self._cursor: int | None = None
        self._target = 0
        self._sending = False
        self._closed = False

    def start(self) -> None:
        self._send()

    def deliver(self, item: dict[str, Any]) -> None:
        """A notification that was pushed."""
        if self._cursor is not None and item["seq"] == self._cursor + 1 and not self._sending and not self._is_congested():
            self._pass_on(item)
        else:
            self.catch_up(item["seq"])

    def catch_up(self, head: int) -> None:
        """There are notifications up to this number."""
        self._target = max(self._target, head)
        if self._cursor is not None and self._target > self._cursor:
            self._send()

    def close(self) -> None:
        self._closed = True

    def _send(self) -> None:
        if not self._sending:
            self._sending = True
            gevent.spawn(self._run)

    def _run(self) -> None:
        try:
            if self._cursor is None:
                self._open()
            while self._cursor is not None and self._target > self._cursor and not self._closed:
                page = self._read(self._cursor)
                if page.recovered and page.items:
                    self._pass_on_page(page)
                elif page.recovered:  # what was promised is not there
                    self._target = self._cursor
                else:
                    self._after = self._cursor
                    self._open()
        finally:
            self._sending = False

    def _open(self) -> None:
        """What was missed, then `ready`."""
        if self._after is None:
            cursor, recovered = self._read(LAST_NUMBER).head, True
        else:
            cursor, recovered = self._send_missed(self._after)
        self._cursor = cursor
        self._emit("ready", {**self._ready_payload, "head": cursor, "recovered": recovered})

    def _send_missed(self, cursor: int) -> tuple[int, bool]:
        """Up to where; and whether all of it was there."""
        while not self._closed:
            page = self._read(cursor)
            if not page.recovered or not page.items:
                return page.head, page.recovered
            self._pass_on_page(page)
            cursor = page.items[-1].seq
        return cursor, True

    def _read(self, cursor: int) -> Page:
        """Waits until the client takes what it has been sent, and until the database answers."""
        while not self._closed:
            if self._is_congested():
                gevent.sleep(CONGESTION_SECONDS)
                continue
            try:
                return self._read_after(cursor)
            except Unavailable:
                gevent.sleep(RETRY_SECONDS)
        return Page([], cursor, recovered=True)

    def _pass_on_page(self, page: Page) -> None:
        for notification in page.items:
            self._pass_on(notification.payload())

    def _pass_on(self, item: dict[str, Any]) -> None:
        self._cursor = item["seq"]
        self._emit("notification", item)
