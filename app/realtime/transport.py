"""What Engine.IO and simple-websocket leave unbounded or unfinished: sizes, rates, slow readers, writes that are cut short."""

from __future__ import annotations

import time
from contextlib import suppress
from socket import SHUT_RDWR
from typing import TYPE_CHECKING, Any

import engineio
import gevent
import simple_websocket
from engineio.async_drivers.gevent import WebSocketWSGI
from engineio.packet import Packet
from engineio.payload import Payload
from gevent.lock import Semaphore
from wsproto.frame_protocol import CloseReason

from app import metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MAX_MESSAGE_BYTES = 64 * 1024  # clients have little to say
MESSAGES_PER_SECOND, MESSAGES_AT_ONCE = 50, 200  # of one connection, of any kind
MAX_PACKETS_PER_POST = 100
SEND_SECONDS = 30.0  # for the client to take a message
MAX_PACKETS_WAITING = 500  # for one that does not read; then it is cut off, and catches up when it comes back
RECEIVE_BYTES = 16 * 1024

Payload.max_decode_packets = MAX_PACKETS_PER_POST


class Rate:
    """So many a second, and as many seconds' worth at once."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = self._left = burst
        self._updated = time.monotonic()

    def take(self, count: int = 1) -> bool:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._updated) * self._per_second)
        self._updated = now
        if self._left < count:
            return False
        self._left -= count
        return True


class _WholeWrites:
    """A socket whose `send` sends all, one caller at a time, or ends the connection.

    simple-websocket does not look at how much of a message was sent, which cuts long ones, and writes from two greenlets.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._turn = Semaphore()

    def send(self, data: bytes) -> int:
        with self._turn:
            try:
                with gevent.Timeout(SEND_SECONDS, BrokenPipeError("the client does not read")):
                    self._sock.sendall(data)
            except OSError:
                with suppress(OSError):
                    self._sock.shutdown(SHUT_RDWR)
                raise BrokenPipeError from None
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _BoundedServer(simple_websocket.Server):  # type: ignore[misc] # no type hints
    def __init__(self, environ: WSGIEnvironment, **options: Any) -> None:
        self._rate = Rate(MESSAGES_PER_SECOND, MESSAGES_AT_ONCE)
        super().__init__(environ, **options)

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        message: str | bytes | None = super().receive(timeout)
        if not self._rate.take():
            self.close(CloseReason.POLICY_VIOLATION, "too many messages")
            raise simple_websocket.ConnectionClosed(CloseReason.POLICY_VIOLATION)
        return message

    def _handle_events(self) -> bool:
        keep_going: bool = super()._handle_events()
        if len(self.input_buffer) > MESSAGES_AT_ONCE:
            self.event.set()
            return False
        return keep_going


class BoundedWebSocket(WebSocketWSGI):  # type: ignore[misc]
    """Messages of a limited size, never compressed: a few bytes may inflate to any number, before anybody looks at them."""

    def __call__(self, environ: WSGIEnvironment, start_response: Any) -> Any:
        bounded = {**environ, "gunicorn.socket": _WholeWrites(environ["gunicorn.socket"])}
        bounded.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        self.ws = _BoundedServer(bounded, receive_bytes=RECEIVE_BYTES, max_message_size=MAX_MESSAGE_BYTES, **self.server_args)
        self.app(self)
        raise StopIteration  # gunicorn's sign for a connection that is not its own any more


def harden(engine: engineio.Server, instance_id: str) -> None:
    """Ids that name the instance, so that a proxy can find it; bounded WebSockets; bounded queues."""
    random_id = engine.generate_id
    send_packet = engine.send_packet

    def generate_id() -> str:
        return f"{instance_id}.{random_id()}"

    def send_bounded(sid: str, packet: Packet) -> None:
        if backlog(engine, sid) < MAX_PACKETS_WAITING:
            send_packet(sid, packet)
        else:
            metrics.sockets_cut_off.inc()
            cut(engine, sid)

    engine.generate_id = generate_id
    engine.send_packet = send_bounded
    engine._async = {**engine._async, "websocket": BoundedWebSocket}


def backlog(engine: engineio.Server, sid: str) -> int:
    """How many packets wait for a client to take them."""
    socket = engine.sockets.get(sid)
    return socket.queue.qsize() if socket else 0


def cut(engine: engineio.Server, sid: str) -> None:
    """Closes the connection in the way after which official clients come back by themselves."""
    if socket := engine.sockets.get(sid):
        socket.close(wait=False, abort=True)
