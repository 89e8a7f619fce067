"""Publishing messages to instances. Waiting messages go out in one round trip, and those for one room share an envelope."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import redis
from gevent.queue import Empty, Full, Queue
from redis.connection import ConnectionInterface

from app.core import metrics
from app.core.keyring import Keyring
from app.core.messages import Message
from app.realtime.envelope import EXTERNAL_SENDER, EnvelopeCodec, channel_of, encode_message

log = logging.getLogger(__name__)

OUTBOX_MESSAGES = 10_000  # while Redis is down, dropping best-effort messages is better than growing
BATCH_MESSAGES = 500
ENVELOPE_MESSAGES = 32
IDLE_SECONDS = 2.0  # after which the connection returns to the pool, which checks that it is still open


class RedisPublisher:
    def __init__(self, client: redis.Redis, signing: Keyring, sender: bytes = EXTERNAL_SENDER) -> None:
        self._pool = client.connection_pool
        self._codec = EnvelopeCodec(signing, sender)

    def publish(self, messages: Sequence[Message]) -> None:
        """Publish at once. Errors of Redis are logged and counted; the timeout is that of the Redis client."""
        encoded = [(message.room, encode_message(message)) for message in messages]
        if not encoded:
            return
        try:
            with self.connected() as connection:
                self.send(connection, encoded)
        except redis.RedisError as error:
            record_dropped(len(encoded), error)

    @contextmanager
    def connected(self) -> Iterator[ConnectionInterface]:
        connection = self._pool.get_connection()
        try:
            yield connection
        except BaseException:  # replies may be outstanding, so the connection cannot be used again
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        finally:
            self._pool.release(connection)

    def send(self, connection: ConnectionInterface, encoded: Sequence[tuple[str, bytes]]) -> None:
        """Send pairs of room and encoded message in one round trip. Raises RedisError."""
        commands = [("PUBLISH", *envelope) for envelope in self._envelopes(encoded)]
        packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
        connection.send_packed_command(packed)  # type: ignore[no-untyped-call]
        for _ in commands:
            connection.read_response()

    def _envelopes(self, encoded: Sequence[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        """Yield pairs of channel and envelope."""
        by_room = defaultdict(list)
        for room, message in encoded:
            by_room[room].append(message)
        for room, messages in by_room.items():
            for first in range(0, len(messages), ENVELOPE_MESSAGES):
                yield channel_of(room), self._codec.seal(messages[first : first + ENVELOPE_MESSAGES])


class Outbox:
    """The messages that an instance is about to publish, so that the code that publishes never waits for Redis."""

    def __init__(self, publisher: RedisPublisher) -> None:
        self._publisher = publisher
        self._waiting: Queue[tuple[str, bytes]] = Queue(OUTBOX_MESSAGES)  # room and encoded message

    def put(self, message: Message) -> None:
        try:
            self._waiting.put_nowait((message.room, encode_message(message)))
        except Full:
            metrics.queue_messages_lost.inc()

    def run(self) -> None:
        """Publish forever, as a greenlet.

        It keeps a connection while there are messages, which costs half as much as redis-py's pipeline.
        """
        while True:
            batch = self._take()
            try:
                with self._publisher.connected() as connection, suppress(Empty):
                    while True:
                        self._publisher.send(connection, batch)
                        batch = self._take(IDLE_SECONDS)
            except redis.RedisError as error:
                record_dropped(len(batch), error)

    def _take(self, timeout: float | None = None) -> list[tuple[str, bytes]]:
        """Wait for a message and return it with all that are waiting behind it. Raises Empty."""
        first = self._waiting.get(timeout=timeout)
        return [first, *(self._waiting.get_nowait() for _ in range(min(BATCH_MESSAGES, self._waiting.qsize())))]


def record_dropped(count: int, error: Exception) -> None:
    metrics.queue_messages_lost.inc(count)
    log.warning("dropped %d messages to other instances: %s", count, type(error).__name__)
