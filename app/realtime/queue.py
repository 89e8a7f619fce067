"""What instances tell each other: what one publishes in a room, those hear that host a member of it.

It is a hint and no more. Redis' channels forget what nobody listens to in that moment, so whoever needs to miss nothing reads it
from SQL.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import gevent
import redis
from redis.connection import ConnectionInterface
from socketio import Manager, PubSubManager

from app.core.keyring import Keyring
from app.core.messages import ALL_INSTANCES, Message
from app.realtime.envelope import EXTERNAL_SENDER, EnvelopeCodec, channel_of, room_of
from app.realtime.publisher import Outbox, RedisPublisher
from app.realtime.room_members import RoomMembers
from app.realtime.subscriptions import Subscriptions

log = logging.getLogger(__name__)

SOCKETIO = "socketio"  # the kind of what python-socketio says to itself
PING_SECONDS = 2.0
SILENCE_SECONDS = 6.0  # of a connection that answers no ping
RETRY_SECONDS = 0.5
UNREADY_AFTER_SECONDS = 10.0
JOIN_SECONDS = 1.0
HEARD_AT_ONCE = 32  # messages, after which those who write to clients have their turn
ROOMS_PER_COMMAND = 1000

Handler = Callable[[dict[str, Any]], None]


class _Handlers:
    """What this application says to itself, beside the events that Socket.IO passes on."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def on(self, kind: str, handler: Handler) -> None:
        self._handlers[kind] = handler

    def _handle(self, kind: str, message: dict[str, Any]) -> None:
        """What another version of the application says may be unknown here, and is no fault."""
        handler = self._handlers.get(kind)
        if handler is None:
            return
        try:
            handler(message)
        except Exception:
            log.exception("a message could not be handled: %s", kind)


class LocalQueue(_Handlers, RoomMembers, Manager):  # type: ignore[misc] # python-socketio has no type hints
    """Of an instance that is alone."""

    def __init__(self) -> None:
        _Handlers.__init__(self)
        Manager.__init__(self)

    def publish(self, messages: Sequence[Message]) -> None:
        """Neither raises nor waits."""
        for message in messages:
            self._handle(message.kind, message.data)

    def join(self, room: str) -> None: ...

    def leave(self, room: str) -> None: ...

    def wait_until_joined(self, room: str) -> None: ...


class RedisQueue(_Handlers, RoomMembers, PubSubManager):  # type: ignore[misc]
    """Of an instance of a fleet."""

    def __init__(self, client: redis.Redis, signing: Keyring) -> None:
        _Handlers.__init__(self)
        PubSubManager.__init__(self)
        sender = secrets.token_bytes(len(EXTERNAL_SENDER))
        self._client = client
        self._envelopes = EnvelopeCodec(signing, sender)
        self._outbox = Outbox(RedisPublisher(client, signing, sender))
        self._rooms = Subscriptions(always=ALL_INSTANCES)
        self._deaf_since: float | None = time.monotonic()
        self._has_heard = False
        self._heard = 0

    def initialize(self) -> None:
        """Called with the first socket; but listening begins with the process, in `run`."""

    def join(self, room: str) -> None:
        self._rooms.join(room)

    def leave(self, room: str) -> None:
        self._rooms.leave(room)

    def wait_until_joined(self, room: str) -> None:
        self._rooms.wait_until_subscribed(room, JOIN_SECONDS)

    def publish(self, messages: Sequence[Message]) -> None:
        """Neither raises nor waits."""
        for message in messages:
            self._handle(message.kind, message.data)
            self._outbox.put(message)

    def _publish(self, data: dict[str, Any]) -> None:
        """What python-socketio passes on: all instances hear it."""
        self._outbox.put(Message(ALL_INSTANCES, SOCKETIO, data))

    def run(self) -> None:
        """For ever, as a greenlet: sends what was published, and hears what others publish."""
        sending = gevent.spawn(self._outbox.run)
        try:
            self._thread()
        finally:
            sending.kill()

    def not_ready_reason(self) -> str | None:
        """Why the instance should not be ready."""
        if self._deaf_since is None:
            return None
        deaf = time.monotonic() - self._deaf_since > UNREADY_AFTER_SECONDS
        return "redis: the message queue is not heard" if deaf or not self._has_heard else None

    def _listen(self) -> Iterator[dict[str, Any]]:
        """The messages that python-socketio knows; the application's own are handled on the way."""
        while True:
            try:
                yield from self._hear()
            except redis.RedisError as error:
                if self._deaf_since is None:
                    self._deaf_since = time.monotonic()
                    log.warning("the message queue is lost: %s", type(error).__name__)
            gevent.sleep(RETRY_SECONDS)

    def _hear(self) -> Iterator[dict[str, Any]]:
        """What comes over one connection; raises RedisError at its end. redis-py's listener costs twice as much as its parser."""
        connection = self._client.connection_pool.get_connection()
        asking = gevent.spawn(self._ask, connection)
        try:
            while True:
                received = connection.read_response(disable_decoding=True, timeout=SILENCE_SECONDS)
                yield from self._take(received)
        finally:
            asking.kill()
            connection.disconnect()  # type: ignore[no-untyped-call]
            self._client.connection_pool.release(connection)
            self._rooms.restart()

    def _ask(self, connection: ConnectionInterface) -> None:
        """As a greenlet: subscribes to what has to be heard, unsubscribes from what has not, and pings."""
        with suppress(redis.RedisError):  # which the listener meets too
            while True:
                subscribe, unsubscribe = self._rooms.take_requests()
                commands = [*_commands("SUBSCRIBE", subscribe), *_commands("UNSUBSCRIBE", unsubscribe), ("PING",)]
                packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
                connection.send_packed_command(packed)  # type: ignore[no-untyped-call]
                self._rooms.changed.wait(PING_SECONDS)

    def _take(self, received: list[Any]) -> Iterator[dict[str, Any]]:
        what, room = received[0], room_of(received[1])
        if what == b"message":
            if self._rooms.has_members(room) and not self._envelopes.is_own(received[2]):
                yield from self._open(received[2])
        elif what == b"subscribe":
            self._rooms.on_subscribed(room)
            if room == ALL_INSTANCES:
                self._has_heard, self._deaf_since = True, None
        elif what == b"unsubscribe":
            self._rooms.on_unsubscribed(room)

    def _open(self, envelope: bytes) -> Iterator[dict[str, Any]]:
        contents = self._envelopes.open(envelope)
        if contents is None:
            log.warning("a message was not signed by this fleet, and left out")
            return
        for kind, message in contents:
            if kind == SOCKETIO:
                yield message
            else:
                self._handle(kind, message)
            self._heard += 1
            if self._heard % HEARD_AT_ONCE == 0:
                gevent.sleep(0)


def _commands(name: str, rooms: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for first in range(0, len(rooms), ROOMS_PER_COMMAND):
        yield (name, *(channel_of(room) for room in rooms[first : first + ROOMS_PER_COMMAND]))


SocketQueue = LocalQueue | RedisQueue
