"""Stand-ins for Socket.IO, Engine.IO and deliveries, and fixtures with three connected sockets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from engineio.packet import Packet

from app.core.messages import Message
from app.realtime.connections import Connection, Connections, Identity

ADA, ADA_OTHER_SESSION, BOB = Identity(1, 1, "a"), Identity(1, 1, "b"), Identity(2, 1, "c")


class FakeDelivery:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start(self, first_page: Any = None) -> None: ...

    def deliver(self, payload: dict[str, Any]) -> None:
        self.calls.append(payload["seq"])

    def catch_up(self, head: int) -> None:
        self.calls.append(f"head {head}")

    def close(self) -> None:
        self.calls.append("closed")


class FakeServer:
    """A Socket.IO server that records the events it sends as (sid, event, data)."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any]] = []
        self.environ: dict[str, dict[str, float]] = {}
        self.eio = SimpleNamespace(sockets={}, send_packet=self.send_packet)
        self.manager = SimpleNamespace(eio_sid_from_sid=lambda sid, _: f"engine {sid}", disconnect=lambda *_, **__: None)

    def send_packet(self, engine_sid: str, packet: Packet) -> None:
        assert packet.data[0] == "2"
        event, data = json.loads(packet.data[1:])
        self.sent.append((engine_sid.removeprefix("engine "), event, data))

    def disconnect(self, sid: str, *, ignore_queue: bool) -> None:
        self.sent.append((sid, "disconnect", None))

    def connect(self, sid: str, backlog: int = 0) -> None:
        self.eio.sockets[f"engine {sid}"] = FakeEngineSocket(backlog)


class FakeEngineSocket:
    def __init__(self, backlog: int) -> None:
        self.queue = SimpleNamespace(qsize=lambda: backlog)
        self.is_aborted = False

    def close(self, *, wait: bool, abort: bool) -> None:
        assert (wait, abort) == (False, True)
        self.is_aborted = True


class HostedRooms(list[str]):
    """The rooms that have been joined, once per member, and the messages that were published."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Message] = []

    def join(self, room: str) -> None:
        self.append(room)

    def leave(self, room: str) -> None:
        self.remove(room)

    def publish(self, messages: Sequence[Message]) -> None:
        self.published += messages


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def hosted_rooms() -> HostedRooms:
    return HostedRooms()


@pytest.fixture
def connections(server: FakeServer, hosted_rooms: HostedRooms) -> Connections:
    """Sockets "1" and "2" of Ada, from two sessions, and "3" of Bob."""
    connections = Connections(server, drain_rate=1000, rooms=hosted_rooms)
    for sid, identity in {"1": ADA, "2": ADA_OTHER_SESSION, "3": BOB}.items():
        server.connect(sid)
        connections.add(connections.create(sid, identity), FakeDelivery())
    return connections


@pytest.fixture
def socketio(connections: Connections) -> SimpleNamespace:
    """A Flask-SocketIO whose handlers of client events are in `socketio.handlers`."""
    handlers: dict[str, Any] = {}
    server = SimpleNamespace(connections=connections, on=handlers.__setitem__)
    return SimpleNamespace(server=server, handlers=handlers)


def calls(connection: Connection) -> list[Any]:
    """The calls that the delivery of a connection received."""
    return cast(FakeDelivery, connection.delivery).calls
