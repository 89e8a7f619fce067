"""What Engine.IO and simple-websocket leave unbounded or unfinished: sizes, rates, slow readers, writes that are cut short."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from socket import SHUT_RDWR
from typing import TYPE_CHECKING, Any

import engineio
import gevent
import simple_websocket
from engineio.async_drivers.gevent import WebSocketWSGI
from engineio.exceptions import QueueEmpty
from engineio.packet import Packet
from engineio.payload import Payload
from gevent.lock import Semaphore
from gevent.queue import Empty
from wsproto.events import Event
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from app import metrics
from app.realtime.packets import Malformed, is_engine_packet

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MAX_MESSAGE_BYTES = 64 * 1024  # clients have little to say
MESSAGES_PER_SECOND, MESSAGES_AT_ONCE = 50, 200  # of one connection, of any kind
FRAMES_PER_SECOND, FRAMES_AT_ONCE = 100, 500  # pings, parts of messages and empty ones included
MAX_PACKETS_PER_POST = 100
MAX_PACKETS_PER_POLL = 16  # the official Python client ends a connection that sends it more at once
SEND_SECONDS = 30.0  # for the client to take a message
MAX_PACKETS_WAITING = 500  # for one that does not read; then it is cut off, and catches up when it comes back
IDLE_SECONDS = 60.0  # more than a client that answers pings is ever silent
HANG_UP_SECONDS = 2.0  # for the client to answer the close frame
RECEIVE_BYTES = 16 * 1024
HANDSHAKE_HEADERS = {"HTTP_HOST", "HTTP_CONNECTION", "HTTP_UPGRADE", "HTTP_SEC_WEBSOCKET_KEY", "HTTP_SEC_WEBSOCKET_VERSION"}

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


class _PatientSocket(engineio.server.socket.Socket):  # type: ignore[misc]
    """One that leaves for the next poll what is too much for this one."""

    def poll(self) -> list[Packet]:
        """Empty at the end of the connection. Raises QueueEmpty if there is nothing for too long."""
        packets: list[Packet | None] = []
        try:
            packets.append(self._take(timeout=self.server.ping_interval + self.server.ping_timeout))
            while packets[-1] is not None and len(packets) < MAX_PACKETS_PER_POLL:
                packets.append(self._take(block=False))
        except Empty:
            if not packets:
                raise QueueEmpty from None
        if packets[-1] is None and len(packets) > 1:
            self.queue.put(None)
        return [packet for packet in packets if packet is not None]

    def _take(self, **how: Any) -> Packet | None:
        packet: Packet | None = self.queue.get(**how)
        self.queue.task_done()
        return packet


engineio.server.socket.Socket = _PatientSocket  # there is no other way to choose the class


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
        self._frame_rate = Rate(FRAMES_PER_SECOND, FRAMES_AT_ONCE)
        super().__init__(environ, **options)

    def handshake(self) -> None:
        events = self.ws.events

        def counted() -> Iterator[Event]:
            for event in events():
                if not self._frame_rate.take():
                    raise LocalProtocolError("too many frames")  # which ends the connection
                yield event

        self.ws.events = counted
        super().handshake()

    def receive(self, timeout: float | None = IDLE_SECONDS) -> str | bytes | None:
        message: str | bytes | None = super().receive(timeout)
        if not self._rate.take():
            self.close(CloseReason.POLICY_VIOLATION, "too many messages")
            raise simple_websocket.ConnectionClosed(CloseReason.POLICY_VIOLATION)
        return message

    def close(self, reason: int | None = None, message: str | None = None) -> None:
        super().close(reason, message)
        gevent.spawn_later(HANG_UP_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(SHUT_RDWR)

    def _handle_events(self) -> bool:
        keep_going: bool = super()._handle_events()
        if len(self.input_buffer) > MESSAGES_AT_ONCE:
            self.event.set()
            return False
        return keep_going


class BoundedWebSocket(WebSocketWSGI):  # type: ignore[misc]
    """Messages of a limited size, never compressed: a few bytes may inflate to any number, before anybody looks at them."""

    def __call__(self, environ: WSGIEnvironment, start_response: Any) -> Any:
        bounded = {name: value for name, value in environ.items() if name in HANDSHAKE_HEADERS}
        environ["gunicorn.socket"].settimeout(None)  # it has limits of its own
        bounded["gunicorn.socket"] = _WholeWrites(environ["gunicorn.socket"])
        self.ws = _BoundedServer(bounded, receive_bytes=RECEIVE_BYTES, max_message_size=MAX_MESSAGE_BYTES, **self.server_args)
        self.app(self)
        raise StopIteration  # gunicorn's sign for a connection that is not its own any more

    def wait(self) -> str | bytes | None:
        message: str | bytes | None = super().wait()
        if message is None or is_engine_packet(message):
            return message
        self.close()
        return None


def harden(engine: engineio.Server, instance_id: str) -> None:
    """Ids that name the instance, so that a proxy can find it; bounded WebSockets and queues; the end for who talks nonsense."""
    random_id = engine.generate_id
    send_packet = engine.send_packet
    handle = engine.handlers["message"]

    def generate_id() -> str:
        return f"{instance_id}.{random_id()}"

    def send_bounded(sid: str, packet: Packet) -> None:
        if backlog(engine, sid) < MAX_PACKETS_WAITING:
            send_packet(sid, packet)
        else:
            metrics.sockets_cut_off.inc()
            cut(engine, sid)

    def handle_well_formed(sid: str, data: Any) -> None:
        try:
            handle(sid, data)
        except Malformed:
            cut(engine, sid)

    engine.generate_id = generate_id
    engine.handlers["message"] = handle_well_formed
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
