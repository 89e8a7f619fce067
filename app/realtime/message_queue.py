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
from gevent.pool import Group
from gevent.queue import Queue
from redis.connection import ConnectionInterface
from socketio import Manager, PubSubManager

from app.core import metrics
from app.core.keyring import Keyring
from app.core.logs import RepetitionFilter
from app.core.messages import ALL_INSTANCES, TRACEPARENT, Message
from app.core.spans import continued
from app.realtime.channels import Server
from app.realtime.envelope import EXTERNAL_SENDER, EnvelopeCodec, InvalidEnvelope, channel_of, room_of
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
            if traceparent := message.data.get(TRACEPARENT):
                with continued(f"{message.kind} message", traceparent, {}):
                    handler(message.data)
            else:
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
    """The queue of an instance in fleet mode, over Redis pub/sub with one channel per room.

    It has a connection to each server that carries a room with members: one, or several masters of a Redis Cluster.
    """

    def __init__(self, client: redis.Redis, signing: Keyring) -> None:
        _Handlers.__init__(self)
        PubSubManager.__init__(self)
        sender = secrets.token_bytes(len(EXTERNAL_SENDER))
        self._codec = EnvelopeCodec(signing, sender)
        publisher = RedisPublisher(client, signing, sender)
        self._outbox = Outbox(publisher)
        self._channels = publisher.channels
        self._subscriptions = Subscriptions(ALL_INSTANCES, self._channels.server_of)
        self._connected: set[Server] = set()  # servers that have confirmed a subscription
        self._unsubscribed_since: float | None = time.monotonic()
        self._was_subscribed = False
        self._received = 0
        self._rejections = RepetitionFilter()
        self._received_by_socketio: Queue[dict[str, Any]] = Queue()

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
        tasks = Group()
        try:
            tasks.spawn(self._outbox.run)
            tasks.spawn(self._connect_to_servers)
            self._thread()
        finally:
            tasks.kill()

    def not_ready_reason(self) -> str | None:
        """Return a reason while messages to all instances do not arrive. Those to a room may: another server carries it."""
        if self._unsubscribed_since is None:
            return None
        is_overdue = time.monotonic() - self._unsubscribed_since > UNREADY_AFTER_SECONDS
        return "redis: not subscribed to the message queue" if is_overdue or not self._was_subscribed else None

    def _listen(self) -> Iterator[dict[str, Any]]:
        """Yield python-socketio's own messages."""
        while True:
            yield self._received_by_socketio.get()

    def _connect_to_servers(self) -> None:
        connections = Group()
        try:
            for server in self._subscriptions.new_servers:
                connections.spawn(self._receive_from, server)
        finally:
            connections.kill()

    def _receive_from(self, server: Server) -> None:
        """Receive the messages of one server, as a greenlet, until no room needs it."""
        while self._subscriptions.needs(server):
            try:
                with self._channels.refreshing_after_errors(server):
                    self._receive(server)
            except Exception as error:
                if not isinstance(error, redis.RedisError):
                    log.exception("receiving messages failed")
                self._on_connection_lost(server, error)
                gevent.sleep(RETRY_SECONDS)
        self._subscriptions.forget(server)

    def _receive(self, server: Server) -> None:
        """Receive over one connection until no room needs it or it fails with RedisError.

        It uses redis-py's parser alone, because redis-py's PubSub costs twice as much.
        """
        pool = self._channels.pool_of(server)
        connection = pool.get_connection()
        requests = gevent.spawn(self._send_requests, server, connection)
        try:
            while self._subscriptions.needs(server):
                self._read_replies(server, connection)
        finally:
            requests.kill()
            connection.disconnect()  # type: ignore[no-untyped-call]
            pool.release(connection)

    def _read_replies(self, server: Server, connection: ConnectionInterface) -> None:
        """Handle replies until the one to a ping, which comes at least every PING_SECONDS."""
        while True:
            try:
                reply = connection.read_response(disable_decoding=True, timeout=SILENCE_SECONDS)
            except redis.ResponseError as error:
                self._channels.on_refused(server, error)
                continue
            if reply[0] == self._channels.message:
                self._on_message(room_of(reply[1]), reply[2])
            elif isinstance(reply, bytes) or reply[0] == b"pong":  # the former on a connection without subscriptions
                self._subscriptions.on_answered(server, int(reply if isinstance(reply, bytes) else reply[1]))
                return
            else:
                self._on_subscription(server, reply[0], room_of(reply[1]))

    def _send_requests(self, server: Server, connection: ConnectionInterface) -> None:
        """Subscribe, unsubscribe and ping, as a greenlet beside the one that receives."""
        with suppress(redis.RedisError):  # the receiving greenlet gets the same error
            while True:
                requests = self._subscriptions.take_requests(server)
                size = self._channels.channels_per_command
                commands = [
                    *_commands(self._channels.subscribe, requests.subscribe, size),
                    *_commands(self._channels.unsubscribe, requests.unsubscribe, size),
                    ("PING", requests.number),
                ]
                packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
                connection.send_packed_command(packed)  # type: ignore[no-untyped-call]
                self._subscriptions.wait_for_requests(server, PING_SECONDS)

    def _on_subscription(self, server: Server, kind: bytes, room: str) -> None:
        if kind == self._channels.subscribed:
            self._connected.add(server)
            self._subscriptions.on_subscribed(server, room)
        elif kind == self._channels.unsubscribed:
            if self._subscriptions.expect_unsubscribed(room):
                self._channels.on_moved(server)
            self._subscriptions.on_unsubscribed(server, room)
        self._check_readiness()

    def _on_connection_lost(self, server: Server, error: Exception) -> None:
        if server in self._connected:
            self._connected.remove(server)
            where = f" at {server.host}:{server.port}" if server else ""
            log.warning("lost the connection to the message queue%s: %s", where, type(error).__name__)
        self._subscriptions.on_connection_lost(server)
        self._check_readiness()

    def _check_readiness(self) -> None:
        if self._subscriptions.is_subscribed(ALL_INSTANCES):
            self._was_subscribed, self._unsubscribed_since = True, None
        elif self._unsubscribed_since is None:
            self._unsubscribed_since = time.monotonic()

    def _on_message(self, room: str, envelope: bytes) -> None:
        if not self._subscriptions.has_members(room) or self._codec.is_own(envelope):
            return
        try:
            messages = self._codec.open(room, envelope)
        except InvalidEnvelope as reason:
            self._record_rejected(reason)
            return
        for message in messages:
            if message.kind == SOCKETIO:
                self._received_by_socketio.put(message.data)
            else:
                self._handle(message)
            self._received += 1
            if self._received % MESSAGES_PER_TURN == 0:
                gevent.sleep(0)

    def _record_rejected(self, reason: InvalidEnvelope) -> None:
        metrics.queue_messages_rejected.inc()
        if self._rejections.accepts("rejected"):  # for whatever reason: who sends them could alternate
            log.warning("dropped message with %s; reporadar_queue_messages_rejected_total counts them", reason)


def _commands(name: str, rooms: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    for first in range(0, len(rooms), size):
        yield (name, *map(channel_of, rooms[first : first + size]))


MessageQueue = LocalMessageQueue | RedisMessageQueue
