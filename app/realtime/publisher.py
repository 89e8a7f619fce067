"""Speaking to instances: all that waits goes out at once, and what goes to one room in one envelope."""

from __future__ import annotations

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
from app.realtime.envelope import EXTERNAL_SENDER, EnvelopeCodec, channel_of, encode

log = logging.getLogger(__name__)

MAX_OUTBOX = 10_000  # messages; in an outage of Redis it is better to lose hints than to grow
MAX_BATCH = 500
MAX_IN_ENVELOPE = 32
IDLE_SECONDS = 2.0  # after which the connection goes back to the pool, which looks whether it still lives

Written = tuple[str, bytes]  # room, content


class RedisPublisher:
    """Speaks without listening."""

    def __init__(self, client: redis.Redis, signing: Keyring, sender: bytes = EXTERNAL_SENDER) -> None:
        self._pool = client.connection_pool
        self._envelopes = EnvelopeCodec(signing, sender)

    def publish(self, messages: Sequence[Message]) -> None:
        """Does not raise; waits for Redis for as long as its client does."""
        written = [write(message) for message in messages]
        if not written:
            return
        try:
            with self.connected() as connection:
                self.send(connection, written)
        except redis.RedisError as error:
            lost(len(written), error)

    @contextmanager
    def connected(self) -> Iterator[ConnectionInterface]:
        connection = self._pool.get_connection()
        try:
            yield connection
        except BaseException:  # there may be answers to come that nobody waits for any more
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        finally:
            self._pool.release(connection)

    def send(self, connection: ConnectionInterface, written: Sequence[Written]) -> None:
        """In one round trip. Raises RedisError."""
        commands = [("PUBLISH", *envelope) for envelope in self._envelopes_of(written)]
        packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
        connection.send_packed_command(packed)  # type: ignore[no-untyped-call]
        for _ in commands:
            connection.read_response()

    def _envelopes_of(self, written: Sequence[Written]) -> Iterator[tuple[str, bytes]]:
        """With the channel of each."""
        by_room = defaultdict(list)
        for room, content in written:
            by_room[room].append(content)
        for room, contents in by_room.items():
            for first in range(0, len(contents), MAX_IN_ENVELOPE):
                yield channel_of(room), self._envelopes.seal(contents[first : first + MAX_IN_ENVELOPE])


class Outbox:
    """Of an instance: whoever writes does not wait."""

    def __init__(self, publisher: RedisPublisher) -> None:
        self._publisher = publisher
        self._waiting: Queue[Written] = Queue(MAX_OUTBOX)

    def put(self, message: Message) -> None:
        try:
            self._waiting.put_nowait(write(message))
        except Full:
            metrics.queue_messages_lost.inc()

    def run(self) -> None:
        """For ever, as a greenlet. Keeps its connection while there is something to say, which is half the work of a pipeline."""
        while True:
            written = self._take()
            try:
                with self._publisher.connected() as connection, suppress(Empty):
                    while True:
                        self._publisher.send(connection, written)
                        written = self._take(IDLE_SECONDS)
            except redis.RedisError as error:
                lost(len(written), error)

    def _take(self, timeout: float | None = None) -> list[Written]:
        """All that waits, as soon as there is something. Raises Empty."""
        first = self._waiting.get(timeout=timeout)
        return [first, *(self._waiting.get_nowait() for _ in range(min(MAX_BATCH, self._waiting.qsize())))]


def write(message: Message) -> Written:
    return message.room, encode((message.kind, message.data))


def lost(count: int, error: Exception) -> None:
    metrics.queue_messages_lost.inc(count)
    log.warning("messages to the instances were lost: %d, %s", count, type(error).__name__)
