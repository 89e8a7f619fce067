"""The message queue between instances: a message reaches the handlers of the instances that host a member of its room.

It is best effort: Redis drops what is published while nobody is subscribed, so the database has everything that must arrive.
"""

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

SOCKETIO = "socketio"  # the kind of the messages that python-socketio exchanges with itself
PING_SECONDS = 2.0
SILENCE_SECONDS = 6.0  # after which a connection that answers no ping counts as lost
RETRY_SECONDS = 0.5
UNREADY_AFTER_SECONDS = 10.0
JOIN_TIMEOUT_SECONDS = 1.0
MESSAGES_PER_TURN = 32  # then the greenlets that write to clients run
ROOMS_PER_COMMAND = 1000

Handler = Callable[[dict[str, Any]], None]  # takes the data of a message


class _Handlers:
    """The handlers of the application's own messages, by kind. python-socketio handles its own."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def on(self, kind: str, handler: Handler) -> None:
        self._handlers[kind] = handler

    def _handle(self, message: Message) -> None:
        """Call the handler. A kind without one comes from another version of the application and is ignored."""
        handler = self._handlers.get(message.kind)
        if handler is None:
            return
        try:
            handler(message.data)
        except Exception:
            log.exception("the handler of %s messages failed", message.kind)


class LocalMessageQueue(_Handlers, RoomMembers, Manager):  # type: ignore[misc] # python-socketio has no type hints
    """The queue in embedded mode: the only instance handles its own messages at once."""

    def __init__(self) -> None:
        _Handlers.__init__(self)
        Manager.__init__(self)

    def publish(self, messages: Sequence[Message]) -> None:
        """Handle the messages here. Neither raises nor waits."""
        for message in messages:
            self._handle(message)

    def join(self, room: str) -> None: ...

    def leave(self, room: str) -> None: ...

    def wait_until_joined(self, room: str) -> None: ...


class RedisMessageQueue(_Handlers, RoomMembers, PubSubManager):  # type: ignore[misc]
    """The queue of an instance in fleet mode, over Redis pub/sub with one channel per room."""

    def __init__(self, client: redis.Redis, signing: Keyring) -> None:
        _Handlers.__init__(self)
        PubSubManager.__init__(self)
        sender = secrets.token_bytes(len(EXTERNAL_SENDER))
        self._client = client
        self._codec = EnvelopeCodec(signing, sender)
        self._outbox = Outbox(RedisPublisher(client, signing, sender))
        self._subscriptions = Subscriptions(permanent_room=ALL_INSTANCES)
        self._unsubscribed_since: float | None = time.monotonic()
        self._was_subscribed = False
        self._received = 0

    def initialize(self) -> None:
        """Do nothing: python-socketio calls this with the first socket, but `run` starts with the process."""

    def join(self, room: str) -> None:
        self._subscriptions.join(room)

    def leave(self, room: str) -> None:
        self._subscriptions.leave(room)

    def wait_until_joined(self, room: str) -> None:
        """Wait until messages to the room reach this instance, at most 1 s because Redis may be unavailable."""
        self._subscriptions.wait_until_subscribed(room, JOIN_TIMEOUT_SECONDS)

    def publish(self, messages: Sequence[Message]) -> None:
        """Handle the messages here and put them into the outbox. Neither raises nor waits."""
        for message in messages:
            self._handle(message)
            self._outbox.put(message)

    def _publish(self, data: dict[str, Any]) -> None:
        """Publish a message of python-socketio to all instances."""
        self._outbox.put(Message(ALL_INSTANCES, SOCKETIO, data))

    def run(self) -> None:
        """Publish and receive forever, as a greenlet."""
        publisher = gevent.spawn(self._outbox.run)
        try:
            self._thread()
        finally:
            publisher.kill()

    def not_ready_reason(self) -> str | None:
        if self._unsubscribed_since is None:
            return None
        is_overdue = time.monotonic() - self._unsubscribed_since > UNREADY_AFTER_SECONDS
        return "redis: not subscribed to the message queue" if is_overdue or not self._was_subscribed else None

    def _listen(self) -> Iterator[dict[str, Any]]:
        """Yield python-socketio's own messages. The application's are handled on the way."""
        while True:
            try:
                yield from self._receive()
            except redis.RedisError as error:
                if self._unsubscribed_since is None:
                    self._unsubscribed_since = time.monotonic()
                    log.warning("lost the connection to the message queue: %s", type(error).__name__)
            gevent.sleep(RETRY_SECONDS)

    def _receive(self) -> Iterator[dict[str, Any]]:
        """Receive over one connection until it fails with RedisError.

        It uses redis-py's parser alone, because redis-py's PubSub costs twice as much.
        """
        connection = self._client.connection_pool.get_connection()
        requests = gevent.spawn(self._send_requests, connection)
        try:
            while True:
                reply = connection.read_response(disable_decoding=True, timeout=SILENCE_SECONDS)
                yield from self._on_reply(reply)
        finally:
            requests.kill()
            connection.disconnect()  # type: ignore[no-untyped-call]
            self._client.connection_pool.release(connection)
            self._subscriptions.on_connection_lost()

    def _send_requests(self, connection: ConnectionInterface) -> None:
        """Subscribe, unsubscribe and ping, as a greenlet beside the one that receives."""
        with suppress(redis.RedisError):  # the receiving greenlet gets the same error
            while True:
                subscribe, unsubscribe = self._subscriptions.take_requests()
                commands = [*_commands("SUBSCRIBE", subscribe), *_commands("UNSUBSCRIBE", unsubscribe), ("PING",)]
                packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
                connection.send_packed_command(packed)  # type: ignore[no-untyped-call]
                self._subscriptions.changed.wait(PING_SECONDS)

    def _on_reply(self, reply: list[Any]) -> Iterator[dict[str, Any]]:
        kind, room = reply[0], room_of(reply[1])
        if kind == b"message":
            if self._subscriptions.has_members(room) and not self._codec.is_own(reply[2]):
                yield from self._on_envelope(room, reply[2])
        elif kind == b"subscribe":
            self._subscriptions.on_subscribed(room)
            if room == ALL_INSTANCES:
                self._was_subscribed, self._unsubscribed_since = True, None
        elif kind == b"unsubscribe":
            self._subscriptions.on_unsubscribed(room)

    def _on_envelope(self, room: str, envelope: bytes) -> Iterator[dict[str, Any]]:
        messages = self._codec.open(room, envelope)
        if messages is None:
            log.warning("dropped message with invalid signature")
            return
        for message in messages:
            if message.kind == SOCKETIO:
                yield message.data
            else:
                self._handle(message)
            self._received += 1
            if self._received % MESSAGES_PER_TURN == 0:
                gevent.sleep(0)


def _commands(name: str, rooms: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for first in range(0, len(rooms), ROOMS_PER_COMMAND):
        yield (name, *(channel_of(room) for room in rooms[first : first + ROOMS_PER_COMMAND]))


MessageQueue = LocalMessageQueue | RedisMessageQueue
