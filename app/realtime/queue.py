"""The message queue between instances: what one publishes, all hear.

It is a hint and no more. Redis' channels forget what nobody listens to in that moment, so whoever needs to miss nothing reads it
from SQL.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import redis
from gevent.queue import Full, Queue
from socketio import Manager, PubSubManager

from app import metrics
from app.realtime.membership import Membership
from app.sessions import cookie
from app.sessions.keyring import Keyring

log = logging.getLogger(__name__)

CHANNEL = "sockets:1"  # the number of the messages' form: instances of different versions do not meet
PURPOSE = "queue"
MAX_OUTBOX = 10_000  # messages; in an outage of Redis it is better to lose hints than to grow
PING_SECONDS = 2.0
SILENCE_SECONDS = 6.0  # of a connection that answers no ping
RETRY_SECONDS = 0.5
UNREADY_AFTER_SECONDS = 10.0

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


class LocalQueue(_Handlers, Membership, Manager):  # type: ignore[misc] # python-socketio has no type hints
    """Of an instance that is alone."""

    def __init__(self) -> None:
        _Handlers.__init__(self)
        Manager.__init__(self)

    def publish(self, kind: str, message: dict[str, Any]) -> None:
        """Neither raises nor waits."""
        self._handle(kind, message)


class RedisPublisher:
    """Speaks without listening. Messages are signed, so that whoever can write to Redis can't speak to browsers."""

    def __init__(self, client: redis.Redis, signing: Keyring) -> None:
        self._client = client
        self._signing = signing

    def publish(self, kind: str, message: dict[str, Any]) -> None:
        """Does not raise; waits for Redis for as long as its client does."""
        self.send({"method": kind, "host_id": "", "message": message})

    def send(self, data: dict[str, Any]) -> None:
        try:
            self._client.publish(CHANNEL, cookie.sign(self._signing, json.dumps(data), PURPOSE))
        except redis.RedisError as error:
            metrics.queue_messages_lost.inc()
            log.warning("a message to the instances was lost: %s", type(error).__name__)


class RedisQueue(_Handlers, Membership, PubSubManager):  # type: ignore[misc]
    """Of an instance of a fleet."""

    def __init__(self, client: redis.Redis, signing: Keyring) -> None:
        _Handlers.__init__(self)
        PubSubManager.__init__(self, channel=CHANNEL)
        self._client = client
        self._signing = signing
        self._publisher = RedisPublisher(client, signing)
        self._outbox: Queue[dict[str, Any]] = Queue(MAX_OUTBOX)
        self._deaf_since: float | None = time.monotonic()
        self._has_heard = False

    def initialize(self) -> None:
        """Called with the first socket; but listening begins with the process, in `run`."""

    def publish(self, kind: str, message: dict[str, Any]) -> None:
        """Neither raises nor waits."""
        self._handle(kind, message)
        self._publish({"method": kind, "host_id": self.host_id, "message": message})

    def _publish(self, data: dict[str, Any]) -> None:
        try:
            self._outbox.put_nowait(data)
        except Full:
            metrics.queue_messages_lost.inc()

    def run(self) -> None:
        """For ever, as a greenlet: sends what was published, and hears what others publish."""
        sending = gevent.spawn(self._send)
        try:
            self._thread()
        finally:
            sending.kill()

    def obstacle(self) -> str | None:
        """Why the instance should not be ready."""
        if self._deaf_since is None:
            return None
        deaf = time.monotonic() - self._deaf_since > UNREADY_AFTER_SECONDS
        return "redis: the message queue is not heard" if deaf or not self._has_heard else None

    def _send(self) -> None:
        while True:
            self._publisher.send(self._outbox.get())

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
        with self._client.pubsub() as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe(self.channel)
            last_sign = last_ping = time.monotonic()
            while True:
                received: Any = subscription.get_message(timeout=PING_SECONDS)
                now = time.monotonic()
                if received:
                    last_sign = now
                    yield from self._take(received)
                if now - last_sign > SILENCE_SECONDS:
                    raise redis.ConnectionError("no answer")
                if now - last_ping > PING_SECONDS:
                    last_ping = now
                    subscription.ping()

    def _take(self, received: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if received["type"] == "subscribe":
            self._has_heard, self._deaf_since = True, None
        elif received["type"] == "message" and (message := self._read(received["data"])):
            if "message" not in message:
                yield message
            elif message["host_id"] != self.host_id:
                self._handle(message["method"], message["message"])

    def _read(self, data: bytes) -> dict[str, Any] | None:
        read = cookie.read_signed(self._signing, data.decode(errors="replace"), PURPOSE)
        if read is None:
            log.warning("a message was not signed by this fleet, and left out")
            return None
        message: dict[str, Any] = json.loads(read[0])
        return message


SocketQueue = LocalQueue | RedisQueue
