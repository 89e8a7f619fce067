"""The sockets of this instance: whose they are, what they are sent, and how they end."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import gevent
import socketio

from app.core import metrics
from app.core.errors import Unavailable
from app.core.messages import user_room
from app.realtime import packets, transport
from app.realtime.token_bucket import TokenBucket

log = logging.getLogger(__name__)

CONGESTED_PACKETS = 64
EVENTS_PER_SECOND, EVENTS_AT_ONCE = 10, 50  # that a client may send
LOOK_AFTER_SECONDS = 2.0
SESSIONS_SECONDS = 5.0  # a session that ended without a word is found after that time at most
HEAD_SECONDS = 20.0
INTRODUCTION_SECONDS = 10.0  # within which a connection has to become a socket
OPENED_AT = "reporadar.opened_at"  # in a handshake's environ: when, on the monotonic clock
IDENTITY = "reporadar.identity"  # there too: an Identity, or None
FAREWELL_SECONDS = 2.0  # within which a client whose session has ended should leave by itself
PLANNED_SHARE = 0.85  # of the time that there is; who is left then goes at once
CATCH_UP = 0.75  # of the pause between two that are closed: the rate is never above 4/3 of DRAIN_RATE
RECONNECT_MS = 3000  # over which the clients of a stopping instance spread


Key = TypeVar("Key")


@dataclass(frozen=True)
class Identity:
    """Who opened a socket, and with which session."""

    user_id: int
    password_version: int
    session_key: str


class Rooms(Protocol):
    """The rooms that this instance hosts members of."""

    def join(self, room: str) -> None:
        """Count one more member of the room on this instance. Does not wait for Redis."""

    def leave(self, room: str) -> None:
        """Count one member less."""

    def wait_until_joined(self, room: str) -> None:
        """Wait until messages to the room reach this instance, at most 1 s: Redis may be unavailable."""


class Delivery(Protocol):
    """What brings a socket its notifications."""

    def start(self) -> None: ...

    def deliver(self, item: dict[str, Any]) -> None: ...

    def catch_up(self, head: int) -> None: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class Connection:
    sid: str
    engine_sid: str
    identity: Identity
    muted: set[int] = field(default_factory=set)  # repositories that it does not want to hear of
    rooms: set[str] = field(default_factory=set)
    rate: TokenBucket = field(default_factory=lambda: TokenBucket(EVENTS_PER_SECOND, EVENTS_AT_ONCE))
    head_sent_at: float = field(default_factory=time.monotonic)
    delivery: Delivery = field(init=False)


Heads = Callable[[list[int]], dict[int, int]]
StillValid = Callable[[list[Identity]], set[Identity]]  # of these; raises Unavailable


class Groups(dict[Key, dict[str, Connection]]):
    """Connections that have something in common; those without any are forgotten."""

    def members(self, key: Key) -> list[Connection]:
        return list(self.get(key, {}).values())

    def put(self, key: Key, connection: Connection) -> None:
        self.setdefault(key, {})[connection.sid] = connection

    def take(self, key: Key, connection: Connection) -> None:
        del self[key][connection.sid]
        if not self[key]:
            del self[key]


class Connections:
    def __init__(self, server: socketio.Server, drain_rate: int, rooms: Rooms) -> None:
        self._server = server
        self._drain_rate = drain_rate
        self._rooms = rooms
        self._by_sid: dict[str, Connection] = {}
        self._by_user: Groups[int] = Groups()
        self._by_session: Groups[str] = Groups()  # so that a sign-out anywhere is no walk through all sockets here

    def __len__(self) -> int:
        return len(self._by_sid)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._by_sid.values()))

    def __getitem__(self, sid: str) -> Connection:
        return self._by_sid[sid]

    def of_user(self, user_id: int) -> list[Connection]:
        return self._by_user.members(user_id)

    def open(self, sid: str, identity: Identity) -> Connection:
        return Connection(sid, self._server.manager.eio_sid_from_sid(sid, "/"), identity)

    def add(self, connection: Connection, delivery: Delivery) -> None:
        """From now on it is told what concerns it."""
        connection.delivery = delivery
        self._by_sid[connection.sid] = connection
        self._by_user.put(connection.identity.user_id, connection)
        self._by_session.put(connection.identity.session_key, connection)
        self.join(connection, user_room(connection.identity.user_id))
        metrics.sockets.set(len(self))

    def remove(self, sid: str) -> None:
        connection = self._by_sid.pop(sid, None)
        if connection is None:
            return
        connection.delivery.close()
        self._by_user.take(connection.identity.user_id, connection)
        self._by_session.take(connection.identity.session_key, connection)
        for room in connection.rooms:
            self._rooms.leave(room)
        metrics.sockets.set(len(self))

    def join(self, connection: Connection, room: str) -> None:
        """Until it is removed."""
        if connection.sid in self._by_sid and room not in connection.rooms:
            connection.rooms.add(room)
            self._rooms.join(room)

    def emit(self, connection: Connection, event: str, data: dict[str, Any]) -> None:
        self._server.eio.send_packet(connection.engine_sid, packets.event(event, data))

    def emit_to(self, connections: Iterable[Connection], event: str, data: dict[str, Any]) -> None:
        """Encoded once for all; a client that is slow to read goes without, the next state makes up for it."""
        packet = packets.event(event, data)
        for connection in connections:
            if not self.is_congested(connection):
                self._server.eio.send_packet(connection.engine_sid, packet)

    def is_congested(self, connection: Connection) -> bool:
        return transport.backlog(self._server.eio, connection.engine_sid) >= CONGESTED_PACKETS

    # What instances tell each other.

    def on_notification(self, message: dict[str, Any]) -> None:
        for connection in self.of_user(message["user_id"]):
            connection.delivery.deliver(message["item"])

    def on_analysis(self, message: dict[str, Any]) -> None:
        analysis = message["analysis"]
        listening = [one for one in self.of_user(message["user_id"]) if analysis["repository_id"] not in one.muted]
        self.emit_to(listening, "analysis", analysis)

    def on_export(self, message: dict[str, Any]) -> None:
        self.emit_to(self.of_user(message["user_id"]), "export", message["export"])

    def on_sessions_ended(self, message: dict[str, Any]) -> None:
        """Of one session by its key, or all of a user but one."""
        if message["user_id"]:
            ended = [one for one in self.of_user(message["user_id"]) if one.identity.session_key != message["keep"]]
        else:
            ended = self._by_session.members(message["key"])
        for connection in ended:
            self.end(connection, message["reason"])

    def end(self, connection: Connection, reason: str) -> None:
        """For good: official clients do not come back by themselves after this."""
        self.emit(connection, "session_ended", {"reason": reason})
        self._server.disconnect(connection.sid, ignore_queue=True)
        self.remove(connection.sid)  # of one that is only being let in, Socket.IO does not know yet
        gevent.spawn_later(FAREWELL_SECONDS, transport.cut, self._server.eio, connection.engine_sid)

    # What has to be done again and again.

    def run_maintenance(self, heads: Heads, still_valid: StillValid) -> None:
        """For ever, as a greenlet: finds what was missed by a lost message, and what should not be there any more."""
        sessions_at = 0.0
        while True:
            gevent.sleep(LOOK_AFTER_SECONDS)
            try:
                self.compare_heads(heads)
                if time.monotonic() - sessions_at > SESSIONS_SECONDS:
                    sessions_at = time.monotonic()
                    self.compare_sessions(still_valid)
            except Unavailable:
                log.debug("could not look after the sockets")
            self.remove_stale()

    def compare_heads(self, heads: Heads) -> None:
        """Wakes whoever is behind, and lets clients see for themselves whether they are."""
        if not self._by_user:
            return
        found = heads(list(self._by_user))
        now = time.monotonic()
        for connection in self:
            head = found.get(connection.identity.user_id, 0)
            connection.delivery.catch_up(head)
            if now - connection.head_sent_at > HEAD_SECONDS and not self.is_congested(connection):
                connection.head_sent_at = now
                self.emit(connection, "head", {"head": head})

    def compare_sessions(self, still_valid: StillValid) -> None:
        held = list({connection.identity for connection in self})
        gone = set(held) - still_valid(held) if held else set()
        for connection in self:
            if connection.identity in gone:
                self.end(connection, "expired")

    def remove_stale(self) -> None:
        """Connections that never became a socket, or are none any more."""
        engine = self._server.eio
        for connection in self:
            if connection.engine_sid not in engine.sockets:  # it went away while it was being let in
                self.remove(connection.sid)
                self._server.manager.disconnect(connection.sid, "/", ignore_queue=True)
        now = time.monotonic()
        known = {connection.engine_sid for connection in self}
        for engine_sid, environ in list(self._server.environ.items()):
            if engine_sid not in known and now - environ[OPENED_AT] > INTRODUCTION_SECONDS:
                transport.cut(engine, engine_sid)

    def disconnect_clients(self, seconds: float, is_leaving: Callable[[], bool]) -> int:
        """Sends all clients to other instances, as fast as DRAIN_RATE says, or faster where time is short. How many they were.

        An instance that is called back meanwhile keeps the rest.
        """
        told: set[Connection] = set()
        began = due = time.monotonic()
        planned = seconds * PLANNED_SHARE
        while is_leaving() and (waiting := [connection for connection in self if connection not in told]):
            pause = min(1 / self._drain_rate, planned / len(waiting))
            for connection in waiting:
                if not is_leaving():
                    return len(told)
                told.add(connection)
                self._send_elsewhere(connection)
                # What the work above took is made up for, but never so that many go at once.
                due += pause
                if time.monotonic() - began < planned:
                    gevent.sleep(max(due - time.monotonic(), pause * CATCH_UP))
        if is_leaving():
            for engine_sid in list(self._server.eio.sockets):  # of whom nothing is known yet
                transport.cut(self._server.eio, engine_sid)
        return len(told)

    def _send_elsewhere(self, connection: Connection) -> None:
        delay = random.randrange(RECONNECT_MS)  # noqa: S311 - nobody gains from guessing it
        self.emit(connection, "draining", {"reconnect_in_ms": delay})
        transport.cut(self._server.eio, connection.engine_sid)
