"""The rooms that this instance should be subscribed to in Redis, and those that it is subscribed to.

At most one request per room is in flight, so a reply always belongs to the last request, however fast members join and leave.
"""

import time
from collections import Counter

from gevent.event import Event

LINGER_SECONDS = 5.0  # how long the subscription outlives the last member, who may be about to reconnect

_SUBSCRIBING, _SUBSCRIBED, _UNSUBSCRIBING = "subscribing", "subscribed", "unsubscribing"


class Subscriptions:
    def __init__(self, permanent_room: str) -> None:
        """`permanent_room` is never left. It is requested last, so its reply means that all rooms are subscribed."""
        self.changed = Event()  # there are new requests to send
        self._permanent_room = permanent_room
        self._members = Counter({permanent_room: 1})
        self._state: dict[str, str] = {}  # rooms that Redis has been asked for
        self._to_check: set[str] = set()
        self._empty_since: dict[str, float] = {}  # rooms without members, in order of time
        self._waiters: dict[str, Event] = {}
        self.on_connection_lost()

    def join(self, room: str) -> None:
        self._members[room] += 1
        if self._empty_since.pop(room, None) is None and self._members[room] == 1:
            self._check(room)

    def leave(self, room: str) -> None:
        self._members[room] -= 1
        if not self._members[room]:
            del self._members[room]
            self._empty_since[room] = time.monotonic()
            self._wake_waiters(room)

    def has_members(self, room: str) -> bool:
        return room in self._members

    def wait_until_subscribed(self, room: str, timeout: float) -> None:
        """Return when the room is subscribed or has no members, or after `timeout` seconds."""
        if self.has_members(room) and self._state.get(room) != _SUBSCRIBED:
            self._waiters.setdefault(room, Event()).wait(timeout)

    # Requests to Redis and its replies

    def on_connection_lost(self) -> None:
        """Start again: nothing has been requested on the next connection yet."""
        self._state.clear()
        self._empty_since.clear()
        self._to_check = set(self._members)
        self.changed.set()

    def take_requests(self) -> tuple[list[str], list[str]]:
        """Return the rooms to subscribe to and the rooms to unsubscribe from. The caller sends them in this order."""
        self.changed.clear()
        self._expire_empty_rooms()
        rooms, self._to_check = self._to_check, set()
        subscribe = [room for room in rooms if self._is_wanted(room) and room not in self._state]
        unsubscribe = [room for room in rooms if not self._is_wanted(room) and self._state.get(room) == _SUBSCRIBED]
        subscribe.sort(key=lambda room: room == self._permanent_room)
        self._state |= dict.fromkeys(subscribe, _SUBSCRIBING) | dict.fromkeys(unsubscribe, _UNSUBSCRIBING)
        return subscribe, unsubscribe

    def on_subscribed(self, room: str) -> None:
        self._state[room] = _SUBSCRIBED
        self._wake_waiters(room)
        if not self._is_wanted(room):
            self._check(room)

    def on_unsubscribed(self, room: str) -> None:
        del self._state[room]
        if self._is_wanted(room):
            self._check(room)

    def _is_wanted(self, room: str) -> bool:
        return room in self._members or room in self._empty_since

    def _expire_empty_rooms(self) -> None:
        expired_before = time.monotonic() - LINGER_SECONDS
        for room, since in list(self._empty_since.items()):
            if since > expired_before:
                return
            del self._empty_since[room]
            self._to_check.add(room)

    def _check(self, room: str) -> None:
        self._to_check.add(room)
        self.changed.set()

    def _wake_waiters(self, room: str) -> None:
        if waiter := self._waiters.pop(room, None):
            waiter.set()
