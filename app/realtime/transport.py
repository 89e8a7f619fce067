"""Limits for Engine.IO, and WebSockets without greenlets of their own.

python-engineio limits neither the packets of one poll nor those that wait for a slow client, and keeps several greenlets per
WebSocket. `python -m bench.sockets` measures the difference; `tests/unit/test_private_apis.py` lists the private APIs used here.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NoReturn

import engineio
import gevent
from engineio.exceptions import QueueEmpty, SocketIsClosedError, UnknownPacketError
from engineio.packet import NOOP, PING, PONG, UPGRADE, Packet
from engineio.payload import Payload
from gevent.queue import Empty

from app.core import metrics
from app.realtime.packets import MalformedPacket, parse_engine_packet
from app.realtime.websocket import WebSocket

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger(__name__)

MAX_PACKETS_PER_POST = 100
MAX_PACKETS_PER_POLL = 16  # the official Python client closes a connection that sends more
MAX_QUEUED_PACKETS = 500  # for a client that does not read; then it is disconnected, and catches up when it reconnects
UPGRADE_TIMEOUT_SECONDS = 60.0  # for a polling client to probe its WebSocket

Payload.max_decode_packets = MAX_PACKETS_PER_POST


class _EngineSocket(engineio.server.socket.Socket):  # type: ignore[misc] # no type hints
    """Limits the packets of one poll, needs no greenlet over a WebSocket, and leaves nothing behind when it ends."""

    queue: Any  # Engine.IO's queue of packets while polling, an _OutgoingQueue over a WebSocket
    last_ping: float | None  # None after the client has answered
    connected: bool
    upgrading: bool
    closing: bool
    closed: bool
    websocket: WebSocket | None = None  # until it has ended: also one that is being probed or closed

    def receive(self, packet: Packet) -> None:
        """Raises SocketIsClosedError for a packet that follows the end of the connection, in the same body or in another."""
        if self.closing or self.closed:
            raise SocketIsClosedError
        super().receive(packet)

    def close(self, wait: bool = True, abort: bool = False, reason: str | None = None) -> None:
        """End the connection and what belongs to it. Never waits: a client could keep the caller waiting by not polling."""
        super().close(wait=False, abort=abort, reason=reason)
        if self.closed:
            self.server.sockets.pop(self.sid, None)
            self.server.pings.cancel(self)
            if self.upgrading and self.websocket:
                self.websocket.abort()
            self._release_place()

    def on_websocket_end(self) -> None:
        self.websocket = None
        self._release_place()

    def _release_place(self) -> None:
        """A WebSocket counts until it has ended, because its client decides when it answers the close frame."""
        if self.closed and not self.websocket:
            self.server.release_place(self.sid)

    # Polling

    def poll(self) -> list[Packet]:
        """Return an empty list at the end of the connection. Raises QueueEmpty if no packet arrives before the ping timeout."""
        packets: list[Packet | None] = []
        try:
            packets.append(self._next_packet(timeout=self.server.ping_interval + self.server.ping_timeout))
            while packets[-1] is not None and len(packets) < MAX_PACKETS_PER_POLL:
                packets.append(self._next_packet(block=False))
        except Empty:
            if not packets:
                raise QueueEmpty from None
        if packets[-1] is None and len(packets) > 1:
            self.queue.put(None)
        return [packet for packet in packets if packet is not None]

    def _next_packet(self, **options: Any) -> Packet | None:
        packet: Packet | None = self.queue.get(**options)
        self.queue.task_done()
        return packet

    # WebSocket

    def _upgrade_websocket(self, environ: WSGIEnvironment, _: Any) -> NoReturn:
        """Upgrade a polling connection, or begin a new one."""
        self.websocket = WebSocket(environ["gunicorn.socket"], environ["HTTP_SEC_WEBSOCKET_KEY"], self.server.websockets)
        if self.connected:
            _Upgrade(self, self.websocket)
        else:
            self.connected = True
            self.move_to(self.websocket)
        raise StopIteration  # tells gunicorn that the connection is no longer its own

    def move_to(self, websocket: WebSocket) -> None:
        """Send queued and later packets over the WebSocket."""
        waiting, self.queue = self.queue, _OutgoingQueue(websocket)
        self.upgraded = True
        websocket.set_handlers(self._on_message, self._on_close)
        while not waiting.empty():
            self.queue.put(waiting.get())
        waiting.put(Packet(NOOP))  # ends a poll that is still waiting
        if self.closed:
            websocket.close()

    def _on_message(self, message: str | bytes) -> None:
        packet = parse_engine_packet(message)
        try:
            if packet:
                self.receive(packet)
                return
        except UnknownPacketError:
            return
        except SocketIsClosedError:
            pass
        except Exception:
            log.exception("failed to handle a message of socket %s", self.sid)
        self.queue.put(None)

    def _on_close(self) -> None:
        self.close(abort=True, reason=self.server.reason.TRANSPORT_CLOSE)
        self.on_websocket_end()

    # Pings

    def schedule_ping(self) -> None:
        if self.last_ping:
            self.last_ping = None
            self.server.pings.schedule(self)

    def ping(self) -> None:
        if not self.closing and not self.closed:
            self.last_ping = time.time()
            self.send(Packet(PING))


engineio.server.socket.Socket = _EngineSocket  # the server has no setting for the class


class _Upgrade:
    """The upgrade of a polling client: it sends a probe and an upgrade packet over the WebSocket, then moves there."""

    def __init__(self, socket: _EngineSocket, websocket: WebSocket) -> None:
        self._socket = socket
        self._websocket = websocket
        self._timer = gevent.spawn_later(UPGRADE_TIMEOUT_SECONDS, self._cancel)
        self._is_over = False
        socket.upgrading = True
        websocket.set_handlers(self._on_probe, self._on_close)

    def _on_probe(self, message: str | bytes) -> None:
        packet = parse_engine_packet(message)
        if packet is None or packet.packet_type != PING or packet.data != "probe":
            self._cancel()
            return
        self._websocket.set_handlers(self._on_upgrade, self._on_close)
        self._websocket.send(Packet(PONG, "probe").encode())
        self._socket.queue.put(Packet(NOOP))  # ends the waiting poll

    def _on_upgrade(self, message: str | bytes) -> None:
        packet = parse_engine_packet(message)
        if packet is None or packet.packet_type != UPGRADE:
            self._cancel()
            return
        self._finish()
        self._socket.move_to(self._websocket)

    def _cancel(self) -> None:
        if not self._is_over:
            self._finish()
            self._websocket.close()

    def _on_close(self) -> None:
        if not self._is_over:
            self._finish()
        self._socket.on_websocket_end()

    def _finish(self) -> None:
        self._is_over = True
        self._socket.upgrading = False
        self._timer.kill(block=False)


class _OutgoingQueue:
    """Replaces the queue of a socket that has a WebSocket: a packet that is put into it is sent at once."""

    __slots__ = ("_websocket",)

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    def put(self, packet: Packet | None) -> None:
        if packet is None:
            self._websocket.close()
        else:
            self._websocket.send(packet.encode())

    def qsize(self) -> int:
        return self._websocket.backlog

    def join(self) -> None:
        """Return at once: the WebSocket sends by itself."""


class _PingScheduler:
    """One greenlet pings all sockets, in the order in which they were scheduled, since all have the same interval."""

    def __init__(self, engine: engineio.Server) -> None:
        self._engine = engine
        self._due: OrderedDict[_EngineSocket, float] = OrderedDict()
        self._greenlet: gevent.Greenlet | None = None

    def __len__(self) -> int:
        return len(self._due)

    def schedule(self, socket: _EngineSocket) -> None:
        self._due[socket] = time.monotonic() + self._engine.ping_interval
        if not self._greenlet:
            self._greenlet = gevent.spawn(self._run)

    def cancel(self, socket: _EngineSocket) -> None:
        self._due.pop(socket, None)

    def _run(self) -> None:
        while self._due:
            socket, due = next(iter(self._due.items()))
            if (seconds := due - time.monotonic()) > 0:
                gevent.sleep(seconds)
            elif self._due.pop(socket, None):
                socket.ping()


def apply_limits(engine: engineio.Server, instance_id: str) -> None:
    """Limit queues, close connections that send malformed packets, and put the instance ID, by which a proxy routes, into IDs."""
    random_id = engine.generate_id
    send_packet = engine.send_packet
    handle = engine.handlers["message"]

    def generate_id() -> str:
        return f"{instance_id}.{random_id()}"

    def send_limited(sid: str, packet: Packet) -> None:
        if backlog(engine, sid) < MAX_QUEUED_PACKETS:
            send_packet(sid, packet)
        else:
            metrics.sockets_cut_off.inc()
            abort(engine, sid)

    def handle_or_abort(sid: str, data: Any) -> None:
        try:
            handle(sid, data)
        except MalformedPacket:
            abort(engine, sid)

    engine.generate_id = generate_id
    engine.handlers["message"] = handle_or_abort
    engine.send_packet = send_limited
    engine.pings = _PingScheduler(engine)
    engine.websockets = set()  # open ones, including those that are being closed
    engine.release_place = lambda sid: None  # called when a connection and its WebSocket have ended; HandshakeGuard sets it


def backlog(engine: engineio.Server, sid: str) -> int:
    """The number of packets that wait to be sent to a client."""
    socket = engine.sockets.get(sid)
    return socket.queue.qsize() if socket else 0


def abort(engine: engineio.Server, sid: str) -> None:
    """Close the connection without a CLOSE packet, so that the official clients reconnect by themselves."""
    if socket := engine.sockets.get(sid):
        socket.close(wait=False, abort=True)
