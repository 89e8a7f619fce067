"""The rooms that this instance should be subscribed to in Redis, and those that it is subscribed to, at which server.

At most one request per room is in flight, so a reply always belongs to the last request, however fast members join and leave.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from gevent.event import Event
from gevent.queue import Queue

from app.realtime.channels import Server

LINGER_SECONDS = 5.0  # how long the subscription outlives the last member, who may be about to reconnect

_SUBSCRIBING, _SUBSCRIBED, _UNSUBSCRIBING = "subscribing", "subscribed", "unsubscribing"


class Requests(NamedTuple):
    """The requests to send to a server, in this order."""

    subscribe: list[str]  # rooms
    unsubscribe: list[str]
    number: int  # of these requests; to be sent with a ping, whose reply means that they have been answered


class _Connection:
    """The requests of the connection to one server."""

    def __init__(self) -> None:
        self.changed = Event()
        self.to_check: set[str] = set()
        self.number = 0
        self.unconfirmed: dict[str, int] = {}  # rooms, each with the number of the requests


class Subscriptions:
    def __init__(self, permanent_room: str, server_of: Callable[[str], Server] = lambda _: None) -> None:
        """`permanent_room` is never left. It is requested last, so its reply means that all rooms of its server are subscribed.

        `server_of` returns the server that carries a room, and must not wait.
        """
        self.new_servers: Queue[Server] = Queue()  # to which a connection is needed
        self._permanent_room = permanent_room
        self._server_of = server_of
        self._members = Counter({permanent_room: 1})
        self._state: dict[str, tuple[Server, str]] = {}  # rooms that a server has been asked for
        self._connections: dict[Server, _Connection] = {}
        self._empty_since: dict[str, float] = {}  # rooms without members, in order of time
        self._waiters: dict[str, Event] = {}
        self._check(permanent_room)

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

    def is_subscribed(self, room: str) -> bool:
        return room in self._state and self._state[room][1] == _SUBSCRIBED

    def wait_until_subscribed(self, room: str, timeout: float) -> None:
        """Return when the room is subscribed or has no members, or after `timeout` seconds."""
        if self.has_members(room) and not self.is_subscribed(room):
            self._waiters.setdefault(room, Event()).wait(timeout)

    # Requests to a server and its replies

    def wait_for_requests(self, server: Server, timeout: float) -> None:
        self._connections[server].changed.wait(timeout)

    def take_requests(self, server: Server) -> Requests:
        connection = self._connections[server]
        self._expire_empty_rooms()
        connection.changed.clear()
        rooms, connection.to_check = connection.to_check, set()
        subscribe = [room for room in rooms if self._is_wanted(room) and room not in self._state]
        subscribed = server, _SUBSCRIBED
        unsubscribe = [room for room in rooms if not self._is_wanted(room) and self._state.get(room) == subscribed]
        subscribe.sort(key=lambda room: room == self._permanent_room)
        self._state |= dict.fromkeys(subscribe, (server, _SUBSCRIBING)) | dict.fromkeys(unsubscribe, (server, _UNSUBSCRIBING))
        connection.number += 1
        connection.unconfirmed |= dict.fromkeys(subscribe, connection.number)
        return Requests(subscribe, unsubscribe, connection.number)

    def on_subscribed(self, server: Server, room: str) -> None:
        self._connections[server].unconfirmed.pop(room, None)
        self._state[room] = server, _SUBSCRIBED
        self._wake_waiters(room)
        if not self._is_wanted(room):
            self._check(room)

    def expect_unsubscribed(self, room: str) -> bool:
        """Count a room as no longer subscribed. Return whether that is news: the server ends the subscription by itself."""
        if not self.is_subscribed(room):
            return False
        self._state[room] = self._state[room][0], _UNSUBSCRIBING
        return True

    def on_unsubscribed(self, server: Server, room: str) -> None:
        if room in self._state and self._state[room][0] == server:
            del self._state[room]
            if self._is_wanted(room):
                self._check(room)

    def on_answered(self, server: Server, number: int) -> None:
        """Handle that the server has answered the requests with this number: rooms that it has not confirmed were refused.

        They are requested from the server that carries them now; if it is the same, with the next requests.
        """
        connection = self._connections[server]
        for room in [room for room, sent in connection.unconfirmed.items() if sent <= number]:
            del connection.unconfirmed[room]
            self._state.pop(room, None)
            if self._server_of(room) == server:
                connection.to_check.add(room)
            else:
                self._check(room)

    def on_connection_lost(self, server: Server) -> None:
        """Start again: nothing has been requested on the next connection yet, and other servers may carry the rooms now."""
        connection = self._connections[server]
        connection.unconfirmed.clear()
        requested = [room for room, (asked, _) in self._state.items() if asked == server]
        for room in requested:
            del self._state[room]
        rooms, connection.to_check = connection.to_check.union(requested) - self._state.keys(), set()
        for room in rooms:
            self._empty_since.pop(room, None)
            if self._is_wanted(room):
                self._check(room)

    def needs(self, server: Server) -> bool:
        """Return whether a room needs the connection to the server."""
        return bool(self._connections[server].to_check) or any(asked == server for asked, _ in self._state.values())

    def forget(self, server: Server) -> None:
        """Forget a connection that no room needs. If a room needs it later, it is one to a new server."""
        del self._connections[server]

    def _is_wanted(self, room: str) -> bool:
        return room in self._members or room in self._empty_since

    def _expire_empty_rooms(self) -> None:
        expired_before = time.monotonic() - LINGER_SECONDS
        for room, since in list(self._empty_since.items()):
            if since > expired_before:
                return
            del self._empty_since[room]
            self._check(room)

    def _check(self, room: str) -> None:
        """Have the room requested or given up by the connection that it belongs to."""
        server = self._state[room][0] if room in self._state else self._server_of(room)
        if server not in self._connections:
            self._connections[server] = _Connection()
            self.new_servers.put(server)
        connection = self._connections[server]
        connection.to_check.add(room)
        connection.changed.set()

    def _wake_waiters(self, room: str) -> None:
        if waiter := self._waiters.pop(room, None):
            waiter.set()
