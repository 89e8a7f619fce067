"""What Engine.IO leaves unbounded or unfinished: sizes, slow readers, WebSockets that cost several greenlets each."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

import engineio
import gevent
from engineio.exceptions import QueueEmpty, SocketIsClosedError, UnknownPacketError
from engineio.packet import NOOP, PING, PONG, UPGRADE, Packet
from engineio.payload import Payload
from gevent.queue import Empty

from app.core import metrics
from app.realtime.packets import Malformed, engine_packet
from app.realtime.websocket import WebSocket

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger(__name__)

MAX_PACKETS_PER_POST = 100
MAX_PACKETS_PER_POLL = 16  # the official Python client ends a connection that sends it more at once
MAX_PACKETS_WAITING = 500  # for one that does not read; then it is cut off, and catches up when it comes back
UPGRADE_SECONDS = 60.0  # for a client that polls to prove its WebSocket

Payload.max_decode_packets = MAX_PACKETS_PER_POST


class _Socket(engineio.server.socket.Socket):  # type: ignore[misc] # no type hints
    """One that leaves for the next poll what is too much for this one, and has no greenlet of its own over a WebSocket."""

    queue: Any  # of packets: Engine.IO's for one that polls, or an _Outlet
    last_ping: float | None  # while it is not answered
    connected: bool

    # Polling

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

    # WebSocket

    def _upgrade_websocket(self, environ: WSGIEnvironment, _: Any) -> NoReturn:
        """Of a connection that polls, or that begins with this."""
        websocket = WebSocket(environ["gunicorn.socket"], environ["HTTP_SEC_WEBSOCKET_KEY"], self.server.websockets)
        if self.connected:
            _Upgrade(self, websocket)
        else:
            self.connected = True
            self.move_to(websocket)
        raise StopIteration  # gunicorn's sign for a connection that is not its own any more

    def move_to(self, websocket: WebSocket) -> None:
        """What waits, and all that comes after it, is sent there."""
        waiting, self.queue = self.queue, _Outlet(websocket)
        self.upgraded = True
        websocket.attend(self._hear, self._end)
        while not waiting.empty():
            self.queue.put(waiting.get())
        waiting.put(Packet(NOOP))  # to a poll that waits still
        if self.closed:
            websocket.close()

    def _hear(self, message: str | bytes) -> None:
        packet = engine_packet(message)
        try:
            if packet:
                self.receive(packet)
                return
        except UnknownPacketError:
            return
        except SocketIsClosedError:
            pass
        except Exception:
            log.exception("a message could not be handled")
        self.queue.put(None)

    def _end(self) -> None:
        self.close(wait=False, abort=True, reason=self.server.reason.TRANSPORT_CLOSE)
        self.server.sockets.pop(self.sid, None)

    # Pings

    def schedule_ping(self) -> None:
        if self.last_ping:
            self.last_ping = None
            self.server.pings.schedule(self)

    def ping(self) -> None:
        if not self.closing and not self.closed:
            self.last_ping = time.time()
            self.send(Packet(PING))


engineio.server.socket.Socket = _Socket  # there is no other way to choose the class


class _Upgrade:
    """A client that polls proves by two messages that its WebSocket works, and moves there."""

    def __init__(self, socket: _Socket, websocket: WebSocket) -> None:
        self._socket = socket
        self._websocket = websocket
        self._timer = gevent.spawn_later(UPGRADE_SECONDS, self._give_up)
        self._is_over = False
        socket.upgrading = True
        websocket.attend(self._hear_probe, self._give_up)

    def _hear_probe(self, message: str | bytes) -> None:
        packet = engine_packet(message)
        if packet is None or packet.packet_type != PING or packet.data != "probe":
            self._give_up()
            return
        self._websocket.attend(self._hear_upgrade, self._give_up)
        self._websocket.send(Packet(PONG, "probe").encode())
        self._socket.queue.put(Packet(NOOP))  # ends the poll that waits

    def _hear_upgrade(self, message: str | bytes) -> None:
        packet = engine_packet(message)
        if packet is None or packet.packet_type != UPGRADE:
            self._give_up()
            return
        self._finish()
        self._socket.move_to(self._websocket)

    def _give_up(self) -> None:
        if not self._is_over:
            self._finish()
            self._websocket.close()

    def _finish(self) -> None:
        self._is_over = True
        self._socket.upgrading = False
        self._timer.kill(block=False)


class _Outlet:
    """In place of the queue of a socket, when that has a WebSocket: what is put into it is sent."""

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
        """Nobody has to wait for what is sent by itself."""


class _Pings:
    """One greenlet for all sockets, which are due in the order in which they were asked for."""

    def __init__(self, engine: engineio.Server) -> None:
        self._engine = engine
        self._due: deque[tuple[float, _Socket]] = deque()
        self._greenlet: gevent.Greenlet | None = None

    def schedule(self, socket: _Socket) -> None:
        self._due.append((time.monotonic() + self._engine.ping_interval, socket))
        if not self._greenlet:
            self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        while self._due:
            due, socket = self._due[0]
            gevent.sleep(max(0.0, due - time.monotonic()))
            self._due.popleft()
            socket.ping()


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
    engine.pings = _Pings(engine)
    engine.websockets = set()  # those that are being closed included


def backlog(engine: engineio.Server, sid: str) -> int:
    """How many packets wait for a client to take them."""
    socket = engine.sockets.get(sid)
    return socket.queue.qsize() if socket else 0


def cut(engine: engineio.Server, sid: str) -> None:
    """Closes the connection in the way after which official clients come back by themselves."""
    if socket := engine.sockets.get(sid):
        socket.close(wait=False, abort=True)
