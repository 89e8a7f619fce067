"""Publishing messages to instances. Waiting messages go out in one round trip, and those for one room share an envelope."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

import redis
from gevent.pool import Group
from gevent.queue import Empty, Full, Queue
from redis.connection import ConnectionInterface

from app.core import config, instance, metrics
from app.core.config import Config, ConfigError
from app.core.keyring import Keyring
from app.core.messages import Message
from app.realtime.channels import Server, channels_of
from app.realtime.custom_events import create_message
from app.realtime.envelope import EXTERNAL_SENDER, EnvelopeCodec, channel_of, encode_message
from app.redis.client import available, connect

log = logging.getLogger(__name__)

OUTBOX_MESSAGES = 10_000  # while Redis is down, dropping best-effort messages is better than growing
BATCH_MESSAGES = 500
ENVELOPE_MESSAGES = 32
EMBEDDED_MODE = (
    "USE_REDIS_SESSIONS: is not true; an embedded instance receives no events from other processes "
    "(flask --app wsgi notify stores a notification, which it shows within 5 s)"
)
IDLE_SECONDS = 2.0  # after which the connection returns to the pool, which checks that it is still open


class Publisher:
    """Emits Socket.IO events from a process that is not an instance, such as a script or a cron job.

    `Publisher.from_environment().emit("deployed", {"version": "2.1"}, room="user:7")`
    """

    def __init__(self, config: Config) -> None:
        """Connects to Redis with the first event. Raises ConfigError in embedded mode."""
        if not config.use_redis_sessions:
            raise ConfigError([EMBEDDED_MODE])
        self._client = connect(config, instance.current().instance_id)
        signing = Keyring("signing", tuple(secret.encode() for secret in config.session_secret))
        self._publisher = RedisPublisher(self._client, signing)

    @classmethod
    def from_environment(cls) -> Self:
        """Return a publisher with the settings of the instances, from the environment. Raises ConfigError with every fault."""
        return cls(config.from_environment())

    def emit(self, event: str, data: Any = None, room: str | None = None) -> int:
        """Emit an event to every socket in a room, on every instance, or to all sockets if `room` is None.

        Return the number of instances that received it: those with a socket in the room now or in the last few seconds. `data`
        is anything that JSON can represent, up to 64 KB; the items of a tuple are separate arguments of the event. Raises
        ValueError for a name or data that cannot be sent, and Unavailable if Redis does not answer; then it may still arrive.
        """
        message = create_message(event, data, room)
        with available():
            return self._publisher.publish_now([message])

    def close(self) -> None:
        """Close the connections to Redis. The next event opens them again."""
        self._client.close()


class RedisPublisher:
    def __init__(self, client: redis.Redis, signing: Keyring, sender: bytes = EXTERNAL_SENDER) -> None:
        self.channels = channels_of(client)
        self._codec = EnvelopeCodec(signing, sender)

    def publish(self, messages: Sequence[Message]) -> None:
        """Publish at once. Errors of Redis are logged and counted; the timeout is that of the Redis client."""
        for server, encoded in self._by_server(messages).items():
            try:
                self._publish_to(server, encoded)
            except redis.RedisError as error:
                record_dropped(len(encoded), error)

    def publish_now(self, messages: Sequence[Message]) -> int:
        """Publish at once and return how many times an instance received an envelope. Raises RedisError."""
        return sum(self._publish_to(server, encoded) for server, encoded in self._by_server(messages).items())

    @contextmanager
    def connected(self, server: Server) -> Iterator[ConnectionInterface]:
        with self.channels.refreshing_after_errors(server):
            pool = self.channels.pool_of(server)
            connection = pool.get_connection()
            try:
                yield connection
            except BaseException:  # replies may be outstanding, so the connection cannot be used again
                connection.disconnect()  # type: ignore[no-untyped-call]
                raise
            finally:
                pool.release(connection)

    def send(self, connection: ConnectionInterface, encoded: Sequence[tuple[str, bytes]]) -> int:
        """Send pairs of room and encoded message in one round trip, and return the number of receivers. Raises RedisError."""
        envelopes = list(self._envelopes(encoded))
        packed = connection.pack_commands([(self.channels.publish, *one) for one in envelopes])  # type: ignore[no-untyped-call]
        connection.send_packed_command(packed)  # type: ignore[no-untyped-call]
        try:
            return self.channels.read_replies(connection, envelopes)
        except TypeError:
            raise redis.InvalidResponse("unexpected reply from Redis") from None  # to another command

    def _by_server(self, messages: Sequence[Message]) -> dict[Server, list[tuple[str, bytes]]]:
        found = defaultdict(list)
        for message in messages:
            found[self.channels.find_server(message.room)].append((message.room, encode_message(message)))
        return found

    def _publish_to(self, server: Server, encoded: Sequence[tuple[str, bytes]]) -> int:
        with self.connected(server) as connection:
            return self.send(connection, encoded)

    def _envelopes(self, encoded: Sequence[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        """Yield pairs of channel and envelope."""
        by_room = defaultdict(list)
        for room, message in encoded:
            by_room[room].append(message)
        for room, messages in by_room.items():
            for first in range(0, len(messages), ENVELOPE_MESSAGES):
                yield channel_of(room), self._codec.seal(messages[first : first + ENVELOPE_MESSAGES])


class Outbox:
    """The messages that an instance is about to publish, so that the code that publishes never waits for Redis.

    Those for each server wait in a queue of their own, so that a server that does not answer delays no others.
    """

    def __init__(self, publisher: RedisPublisher) -> None:
        self._publisher = publisher
        self._channels = publisher.channels
        self._waiting: dict[Server, Queue[tuple[str, bytes]]] = {}  # room and encoded message
        self._new_servers: Queue[Server] = Queue()

    def put(self, message: Message) -> None:
        server = self._channels.server_of(message.room)
        if server not in self._waiting:
            self._waiting[server] = Queue(OUTBOX_MESSAGES)
            self._new_servers.put(server)
        try:
            self._waiting[server].put_nowait((message.room, encode_message(message)))
        except Full:
            metrics.queue_messages_lost.inc()

    def run(self) -> None:
        """Publish forever, as a greenlet."""
        publishing = Group()
        try:
            for server in self._new_servers:
                publishing.spawn(self._publish_forever, server)
        finally:
            publishing.kill()

    def _publish_forever(self, server: Server) -> None:
        """Keep a connection while there are messages, which costs half as much as redis-py's pipeline."""
        waiting = self._waiting[server]
        while True:
            batch = _take(waiting)
            try:
                with self._publisher.connected(server) as connection, suppress(Empty):
                    while True:
                        self._publisher.send(connection, batch)
                        batch = _take(waiting, IDLE_SECONDS)
            except redis.RedisError as error:
                record_dropped(len(batch), error)


def _take(waiting: Queue[tuple[str, bytes]], timeout: float | None = None) -> list[tuple[str, bytes]]:
    """Wait for a message and return it with all that are waiting behind it. Raises Empty."""
    first = waiting.get(timeout=timeout)
    return [first, *(waiting.get_nowait() for _ in range(min(BATCH_MESSAGES, waiting.qsize())))]


def record_dropped(count: int, error: Exception) -> None:
    metrics.queue_messages_lost.inc(count)
    log.warning("dropped %d messages to other instances: %s", count, type(error).__name__)
