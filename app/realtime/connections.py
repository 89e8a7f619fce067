"""The sockets of this instance: the user and session of each, the events it is sent, and how it ends."""

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import gevent
import socketio

from app.core import metrics
from app.core.errors import Unavailable
from app.core.messages import Message, user_room
from app.core.tasks import InstanceTask
from app.realtime import packets, transport
from app.realtime.token_bucket import TokenBucket

log = logging.getLogger(__name__)

CONGESTED_PACKETS = 64
CLIENT_EVENTS_PER_SECOND, CLIENT_EVENTS_BURST = 10, 50
MAINTENANCE_SECONDS = 2.0
SESSION_CHECK_SECONDS = 5.0
HEAD_SECONDS = 20.0
HANDSHAKE_TIMEOUT_SECONDS = 10.0  # from the start of a connection to its Socket.IO connect
OPENED_AT = "reporadar.opened_at"  # key in a handshake's environ: the start of the connection on the monotonic clock
IDENTITY = "reporadar.identity"  # key in a handshake's environ: an Identity, or None
RATE = "reporadar.rate"  # key in a handshake's environ: the TokenBucket of the client's events and Socket.IO connects
OPENED_BY = "reporadar.opened_by"  # key in a handshake's environ: the store keys of its session cookies
SESSION_END_GRACE_SECONDS = 2.0  # for the client to disconnect by itself after `session_ended`
PLANNED_SHARE = 0.85  # of the time for a drain; clients that remain then receive `draining` at once
WAITING_SHARE = 0.95  # of the time for a drain; clients that remain then are disconnected
MIN_PAUSE_SHARE = 0.75  # of the planned pause between two clients: the rate never exceeds 4/3 of DRAIN_RATE
RECONNECT_SPREAD_MS = 3000
HANDOVER_SECONDS = 5.0  # for a client that hands over to open its next socket and to close this one
CONCURRENT_HANDOVERS = 50  # at DRAIN_RATE 100: clients need half a second each
POLL_SECONDS = 0.05
STOP, REBALANCE = "stop", "rebalance"  # the reasons of `draining`
SOCKET_DRAINED = "socket_drained"  # the kind of the messages that report a `draining` to the instances with sockets of its user

Key = TypeVar("Key")


@dataclass(frozen=True)
class Identity:
    """The user who opened a socket, and the session that was used."""

    user_id: int
    password_version: int
    session_key: str


class Rooms(Protocol):
    """The rooms that this instance hosts members of."""

    def join(self, room: str) -> None:
        """Count one more member of the room on this instance. Does not wait for Redis."""

    def leave(self, room: str) -> None:
        """Count one member less."""

    def publish(self, messages: Sequence[Message]) -> None:
        """Send messages to the instances that host members of their rooms. Neither raises nor waits."""


class Delivery(Protocol):
    """The delivery of one user's notifications to one socket."""

    def start(self, first_page: Any = None) -> None: ...

    def deliver(self, payload: dict[str, Any]) -> None: ...

    def catch_up(self, head: int) -> None: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class Connection:
    """A Socket.IO connection of a signed-in user."""

    sid: str
    engine_sid: str
    identity: Identity
    rooms: set[str] = field(default_factory=set)
    rate: TokenBucket = field(default_factory=lambda: TokenBucket(CLIENT_EVENTS_PER_SECOND, CLIENT_EVENTS_BURST))
    head_sent_at: float = field(default_factory=time.monotonic)
    hands_over: bool = False  # whether the client opens its next socket before it closes this one
    delivery: Delivery = field(init=False)


Heads = Callable[[list[int]], dict[int, int]]  # user IDs -> the latest notification number of each
ValidIdentities = Callable[[list[Identity]], set[Identity]]  # raises Unavailable


class ConnectionIndex(dict[Key, dict[str, Connection]]):
    """Connections by a key that several of them can share."""

    def of(self, key: Key) -> list[Connection]:
        return list(self.get(key, {}).values())

    def add(self, key: Key, connection: Connection) -> None:
        self.setdefault(key, {})[connection.sid] = connection

    def discard(self, key: Key, connection: Connection) -> None:
        del self[key][connection.sid]
        if not self[key]:
            del self[key]


class Connections:
    def __init__(self, server: socketio.Server, drain_rate: int, rooms: Rooms) -> None:
        self._server = server
        self._drain_rate = drain_rate
        self._rooms = rooms
        self._by_sid: dict[str, Connection] = {}
        self._task = InstanceTask("maintenance of sockets", MAINTENANCE_SECONDS)
        self._by_user: ConnectionIndex[int] = ConnectionIndex()
        self._by_session: ConnectionIndex[str] = ConnectionIndex()
        self._draining: set[Connection] = set()  # clients that received `draining`, hand over, and have not left yet

    def __len__(self) -> int:
        return len(self._by_sid)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._by_sid.values()))

    def __contains__(self, connection: Connection) -> bool:
        return self._by_sid.get(connection.sid) is connection

    def __getitem__(self, sid: str) -> Connection:
        return self._by_sid[sid]

    @property
    def staying(self) -> int:
        """The number of connections whose client was not asked to leave."""
        return len(self) - len(self._draining)

    def of_user(self, user_id: int) -> list[Connection]:
        return self._by_user.of(user_id)

    def create(self, sid: str, identity: Identity) -> Connection:
        return Connection(sid, self._server.manager.eio_sid_from_sid(sid, "/"), identity)

    def add(self, connection: Connection, delivery: Delivery) -> None:
        """Add a connection, which from now on receives the messages to its user."""
        connection.delivery = delivery
        self._by_sid[connection.sid] = connection
        self._by_user.add(connection.identity.user_id, connection)
        self._by_session.add(connection.identity.session_key, connection)
        self.join(connection, user_room(connection.identity.user_id))
        metrics.sockets.set(len(self))

    def remove(self, sid: str) -> None:
        connection = self._by_sid.pop(sid, None)
        if connection is None:
            return
        connection.delivery.close()
        self._draining.discard(connection)
        self._by_user.discard(connection.identity.user_id, connection)
        self._by_session.discard(connection.identity.session_key, connection)
        for room in connection.rooms:
            self._rooms.leave(room)
        metrics.sockets.set(len(self))

    def join(self, connection: Connection, room: str) -> None:
        """Join a room until the connection is removed. Does nothing if that has happened already."""
        if connection.sid in self._by_sid and room not in connection.rooms:
            connection.rooms.add(room)
            self._rooms.join(room)

    def emit(self, connection: Connection, event: str, data: dict[str, Any]) -> None:
        self._server.eio.send_packet(connection.engine_sid, packets.encode_event(event, data))

    def emit_to(self, connections: Iterable[Connection], event: str, data: dict[str, Any]) -> None:
        """Emit an event that the next one supersedes: it is encoded once, and congested clients are skipped."""
        packet = packets.encode_event(event, data)
        for connection in connections:
            if not self.is_congested(connection):
                self._server.eio.send_packet(connection.engine_sid, packet)

    def is_congested(self, connection: Connection) -> bool:
        return transport.backlog(self._server.eio, connection.engine_sid) >= CONGESTED_PACKETS

    # Ending sessions

    def on_sessions_ended(self, data: dict[str, Any]) -> None:
        """End the sockets of one session (`key`), or those of a user (`user_id`) except one session (`keep`)."""
        if data["user_id"]:
            ended = [one for one in self.of_user(data["user_id"]) if one.identity.session_key != data["keep"]]
        else:
            ended = self._by_session.of(data["key"])
        for connection in ended:
            self.end(connection, data["reason"])

    def end(self, connection: Connection, reason: str) -> None:
        """Disconnect a client whose session has ended. Official clients do not reconnect by themselves after this."""
        self.emit(connection, "session_ended", {"reason": reason})
        self._server.disconnect(connection.sid, ignore_queue=True)
        self.remove(connection.sid)  # Socket.IO calls no disconnect handler while the connect handler runs
        gevent.spawn_later(SESSION_END_GRACE_SECONDS, transport.abort, self._server.eio, connection.engine_sid)

    # Maintenance

    def run_maintenance(self, heads: Heads, valid_identities: ValidIdentities) -> None:
        """Repair the effects of lost messages and remove stale connections, forever, as a greenlet."""
        sessions_checked_at = 0.0
        while True:
            gevent.sleep(MAINTENANCE_SECONDS)
            try:
                self.compare_heads(heads)
                if time.monotonic() - sessions_checked_at > SESSION_CHECK_SECONDS:
                    sessions_checked_at = time.monotonic()
                    self.end_invalid_sessions(valid_identities)
            except Unavailable as error:
                self._task.fail(error)
            else:
                self._task.succeed()
            self.remove_stale()

    def compare_heads(self, heads: Heads) -> None:
        """Make deliveries that are behind catch up, and send `head` so that clients can notice a gap."""
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

    def end_invalid_sessions(self, valid_identities: ValidIdentities) -> None:
        identities = list({connection.identity for connection in self})
        invalid = set(identities) - valid_identities(identities) if identities else set()
        for connection in self:
            if connection.identity in invalid:
                self.end(connection, "expired")

    def remove_stale(self) -> None:
        """Remove connections that never completed the Socket.IO connect, or that closed while it was in progress."""
        engine = self._server.eio
        for connection in self:
            if connection.engine_sid not in engine.sockets:
                self.remove(connection.sid)
                self._server.manager.disconnect(connection.sid, "/", ignore_queue=True)
        now = time.monotonic()
        known = {connection.engine_sid for connection in self}
        for engine_sid, environ in list(self._server.environ.items()):
            if engine_sid not in known and now - environ[OPENED_AT] > HANDSHAKE_TIMEOUT_SECONDS:
                transport.abort(engine, engine_sid)

    # Draining

    def disconnect_clients(self, seconds: float, is_draining: Callable[[], bool]) -> int:
        """Send `draining` to all clients at DRAIN_RATE, or faster if `seconds` is too short for that, and return their number.

        A client that hands over then has HANDOVER_SECONDS to leave by itself, or half of `seconds` if that is less. All others
        are disconnected at once. While many hand over slowly, the rate is lower, as far as `seconds` allows. An instance that
        returns to service meanwhile keeps the remaining clients.
        """
        drained: set[Connection] = set()
        started = due = time.monotonic()
        grace = min(HANDOVER_SECONDS, seconds / 2)
        while is_draining() and (waiting := [one for one in self if one not in drained and one not in self._draining]):
            waiting.sort(key=lambda connection: not connection.hands_over)  # their time passes during the turns of the others
            planned = (seconds - grace * waiting[0].hands_over) * PLANNED_SHARE
            pause = min(1 / self._drain_rate, planned / len(waiting))
            for number, connection in enumerate(waiting, 1):
                if not is_draining():
                    return len(drained)
                drained.add(connection)
                self._drain(connection, STOP, grace)
                # A shorter pause compensates for the time that the work above took, without a burst of disconnections.
                due += pause
                if time.monotonic() - started < planned:
                    gevent.sleep(max(due - time.monotonic(), pause * MIN_PAUSE_SHARE))
                self._wait_for_handovers(until=started + planned * number / len(waiting))
        while is_draining() and self._draining and time.monotonic() - started < seconds * WAITING_SHARE:
            gevent.sleep(POLL_SECONDS)
        if is_draining():
            for engine_sid in list(self._server.eio.sockets):  # the rest, and those whose Socket.IO connect is not complete
                transport.abort(self._server.eio, engine_sid)
        return len(drained)

    def _wait_for_handovers(self, until: float) -> None:
        """Wait while CONCURRENT_HANDOVERS clients have not left yet: the other instances are too busy for more new sockets."""
        while len(self._draining) >= CONCURRENT_HANDOVERS and time.monotonic() < until:
            gevent.sleep(POLL_SECONDS)

    def shed_one(self) -> None:
        """Ask the client of one connection, chosen at random, to move to an instance with fewer sockets."""
        if staying := [connection for connection in self if connection not in self._draining]:
            self._drain(random.choice(staying), REBALANCE, HANDOVER_SECONDS)  # noqa: S311 - predicting it gains nothing
            metrics.sockets_shed.inc()

    def _drain(self, connection: Connection, reason: str, grace: float) -> None:
        """Send `draining` to a client, and disconnect it after `grace` seconds, or now if it does not hand over."""
        if connection.sid not in self._by_sid:
            return
        user_id = connection.identity.user_id
        self._rooms.publish([Message(user_room(user_id), SOCKET_DRAINED, {"user_id": user_id})])
        delay = 0 if connection.hands_over else random.randrange(RECONNECT_SPREAD_MS)  # noqa: S311 - predicting it gains nothing
        if connection.hands_over:
            self._draining.add(connection)  # before the event: sending it removes a client that does not read
            gevent.spawn_later(grace, transport.abort, self._server.eio, connection.engine_sid)
        self.emit(connection, "draining", {"reconnect_in_ms": delay, "reason": reason})
        if not connection.hands_over:
            transport.abort(self._server.eio, connection.engine_sid)
