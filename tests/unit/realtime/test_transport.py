from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import engineio
import gevent
import pytest
from engineio.exceptions import QueueEmpty
from engineio.packet import MESSAGE, PONG, Packet
from gevent.socket import socketpair

from app.realtime import transport
from app.realtime.frames import CLOSE, TEXT
from app.realtime.transport import MAX_PACKETS_PER_POLL, MAX_QUEUED_PACKETS, abort, apply_limits, backlog
from harness.greenlets import until
from harness.processes import PATIENCE_SECONDS
from tests.unit.realtime.test_frames import masked
from tests.unit.realtime.test_websocket import KEY


@pytest.fixture
def engine() -> engineio.Server:
    server = engineio.Server(async_mode="gevent", async_handlers=False, ping_interval=0.01, ping_timeout=0.01)
    server.on("message", lambda *_: None)
    apply_limits(server, "instance-7")
    return server


@pytest.fixture
def slow_engine(engine: engineio.Server) -> engineio.Server:
    engine.ping_interval = engine.ping_timeout = 5
    engine.received = []
    engine.handlers["message"] = lambda _, data: engine.received.append(data)
    return engine


def connected(engine: engineio.Server) -> engineio.server.socket.Socket:
    sid = engine.generate_id()
    engine.sockets[sid] = engineio.server.socket.Socket(engine, sid)
    return engine.sockets[sid]


def test_ids_contain_the_instance_id(engine: engineio.Server) -> None:
    assert engine.generate_id().startswith("instance-7.")


def test_poll_returns_at_most_as_many_packets_as_clients_accept(engine: engineio.Server) -> None:
    client = connected(engine)
    for number in range(2 * MAX_PACKETS_PER_POLL + 1):
        client.send(Packet(MESSAGE, str(number)))
    abort(engine, client.sid)
    polls = [[int(packet.data) for packet in client.poll()] for _ in range(4)]
    assert [len(poll) for poll in polls] == [MAX_PACKETS_PER_POLL, MAX_PACKETS_PER_POLL, 1, 0]
    assert list(itertools.chain(*polls)) == list(range(2 * MAX_PACKETS_PER_POLL + 1))


def test_poll_without_packets_times_out(engine: engineio.Server) -> None:
    with pytest.raises(QueueEmpty):
        connected(engine).poll()


def test_client_that_does_not_read_is_disconnected(slow_engine: engineio.Server) -> None:
    client = connected(slow_engine)
    for _ in range(MAX_QUEUED_PACKETS):
        slow_engine.send_packet(client.sid, Packet(MESSAGE, "x"))
    assert (backlog(slow_engine, client.sid), client.closed) == (MAX_QUEUED_PACKETS, False)
    slow_engine.send_packet(client.sid, Packet(MESSAGE, "x"))
    assert client.closed


def test_packets_after_the_end_are_refused_and_the_connection_leaves_the_tables(slow_engine: engineio.Server) -> None:
    client = Client(slow_engine)
    client.poll()
    released: list[str] = []
    slow_engine.release_place = released.append
    assert client.post("4before\x1e1\x1e4after") == "400"
    assert slow_engine.received == ["before"]
    assert (slow_engine.sockets, len(slow_engine.pings), released) == ({}, 0, [client.sid])
    assert client.post("4later") == "400"


def test_end_of_a_polling_connection_does_not_wait_for_its_client(slow_engine: engineio.Server) -> None:
    client = Client(slow_engine)
    client.poll()
    slow_engine.send(client.sid, "never polled")
    with gevent.Timeout(PATIENCE_SECONDS):
        slow_engine.disconnect(client.sid)


# Over WebSocket


def environ(query: str = "", ours: Any = None) -> dict[str, Any]:
    upgrade = {"HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "Upgrade", "HTTP_SEC_WEBSOCKET_KEY": KEY, "gunicorn.socket": ours}
    transport = "websocket" if ours else "polling"
    request = {"REQUEST_METHOD": "GET", "PATH_INFO": "/socket.io/", "QUERY_STRING": f"EIO=4&transport={transport}{query}"}
    return request | upgrade if ours else request


class Client:
    """A client with both transports."""

    def __init__(self, engine: engineio.Server) -> None:
        self.engine = engine
        self.sid = ""
        self.socket: Any = None
        self._read = b""

    def poll(self) -> list[str]:
        """The packets of the next poll; the first poll is the handshake."""
        query = f"&sid={self.sid}" if self.sid else ""
        (body,) = self.engine.handle_request(environ(query), lambda *_: None)
        packets: list[str] = body.decode().split("\x1e")
        self.sid = self.sid or json.loads(packets[0][1:])["sid"]
        return packets

    def post(self, body: str) -> str:
        """Return the status of the response."""
        statuses: list[str] = []
        request = environ(f"&sid={self.sid}") | {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body))}
        self.engine.handle_request(
            request | {"wsgi.input": BytesIO(body.encode())}, lambda status, _: statuses.append(status[:3])
        )
        return statuses[0]

    def open_websocket(self) -> None:
        ours, self.socket = socketpair()
        self.socket.settimeout(PATIENCE_SECONDS)
        with pytest.raises(StopIteration):
            self.engine.handle_request(environ(f"&sid={self.sid}" if self.sid else "", ours), lambda *_: None)
        while not self._read.endswith(b"\r\n\r\n"):
            self._read += self.socket.recv(1)

    def send(self, text: str) -> None:
        self.socket.sendall(masked(TEXT, text.encode()))

    def receive(self) -> str:
        """Return the next text, or `closed`."""
        head = self.socket.recv(2)
        payload = self.socket.recv(head[1] if head[1] < 126 else int.from_bytes(self.socket.recv(2), "big"))
        return "closed" if head[0] == 0x80 | CLOSE else payload.decode()


@pytest.fixture
def client(slow_engine: engineio.Server) -> Iterator[Client]:
    client = Client(slow_engine)
    yield client
    if client.socket:
        client.socket.close()
        until(lambda: not slow_engine.websockets)


def test_connection_may_begin_with_a_websocket(slow_engine: engineio.Server, client: Client) -> None:
    client.open_websocket()
    client.sid = json.loads(client.receive()[1:])["sid"]
    client.send("4hello")
    until(lambda: slow_engine.received == ["hello"])
    slow_engine.send(client.sid, "and hello")
    assert client.receive() == "4and hello"
    client.socket.close()
    until(lambda: not slow_engine.sockets)


def test_upgrade_moves_queued_packets_to_the_websocket(slow_engine: engineio.Server, client: Client) -> None:
    client.poll()
    polling = gevent.spawn(client.poll)
    gevent.sleep(0)
    client.open_websocket()
    assert slow_engine.sockets[client.sid].upgrading
    client.send("2probe")
    assert client.receive() == "3probe"
    assert polling.get(timeout=PATIENCE_SECONDS) == ["6"]
    slow_engine.send(client.sid, "meanwhile")
    assert client.poll() == ["6"]
    client.send("5")
    assert client.receive() == "4meanwhile"
    socket = slow_engine.sockets[client.sid]
    assert (socket.upgraded, socket.upgrading, slow_engine.transport(client.sid)) == (True, False, "websocket")
    assert backlog(slow_engine, client.sid) == 0


@pytest.mark.parametrize("sent", [["5"], ["4x"], ["2"], ["2probe", "2probe"], ["2probe", "4x"], ["invalid"]])
def test_client_with_a_failed_upgrade_continues_polling(slow_engine: engineio.Server, client: Client, sent: list[str]) -> None:
    client.poll()
    client.open_websocket()
    for text in sent:
        client.send(text)
    received = [client.receive() for _ in sent]
    assert received == [*["3probe"][: len(sent) - 1], "closed"]
    slow_engine.send(client.sid, "hello")
    assert client.poll()[-1] == "4hello"
    assert not slow_engine.sockets[client.sid].upgrading


def test_upgrade_that_is_never_probed_times_out(
    slow_engine: engineio.Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "UPGRADE_TIMEOUT_SECONDS", 0.02)
    client.poll()
    client.open_websocket()
    assert client.receive() == "closed"
    assert not slow_engine.sockets[client.sid].upgrading


def test_failed_upgrade_does_not_cancel_a_later_one(slow_engine: engineio.Server, client: Client) -> None:
    client.poll()
    client.open_websocket()
    client.send("4x")
    assert client.receive() == "closed"
    earlier = client.socket
    client.open_websocket()
    earlier.close()
    until(lambda: len(slow_engine.websockets) == 1)
    assert slow_engine.sockets[client.sid].upgrading


@pytest.mark.parametrize("sent", [[], ["2probe"]])
def test_upgrade_ends_with_its_connection(slow_engine: engineio.Server, client: Client, sent: list[str]) -> None:
    released: list[str] = []
    slow_engine.release_place = released.append
    client.poll()
    client.open_websocket()
    for text in sent:
        client.send(text)
        client.receive()
    assert client.post("1") == "200"
    assert released == []
    assert client.socket.recv(1) == b""
    until(lambda: not slow_engine.websockets)
    assert released == [client.sid]


def test_place_is_released_when_the_client_has_answered_the_close_frame(slow_engine: engineio.Server, client: Client) -> None:
    released: list[str] = []
    slow_engine.release_place = released.append
    client.open_websocket()
    sid = json.loads(client.receive()[1:])["sid"]
    client.send("1")
    assert (client.receive(), released, slow_engine.sockets) == ("closed", [], {})
    client.socket.close()
    until(lambda: released == [sid])


def test_client_that_sends_an_invalid_packet_is_disconnected(slow_engine: engineio.Server, client: Client) -> None:
    client.open_websocket()
    client.receive()
    client.send("invalid")
    assert client.receive() == "closed"


def test_abort_sends_queued_packets_first(slow_engine: engineio.Server, client: Client) -> None:
    client.open_websocket()
    sid = json.loads(client.receive()[1:])["sid"]
    slow_engine.send(sid, "last")
    abort(slow_engine, sid)
    slow_engine.send(sid, "too late")
    assert [client.receive(), client.receive()] == ["4last", "closed"]


def test_client_that_answers_no_ping_is_disconnected(slow_engine: engineio.Server, client: Client) -> None:
    slow_engine.ping_interval, slow_engine.ping_timeout = 0.01, 0.1
    client.open_websocket()
    client.receive()
    assert client.receive() == "2"
    assert client.receive() == "closed"


def test_client_that_answers_pings_stays_connected(slow_engine: engineio.Server, client: Client) -> None:
    slow_engine.ping_interval, slow_engine.ping_timeout = 0.01, 1.0
    client.open_websocket()
    client.receive()
    for _ in range(50):
        assert client.receive() == "2"
        client.send("3")


def test_one_greenlet_sends_all_pings_and_repeats_after_each_answer(engine: engineio.Server) -> None:
    engine.ping_timeout = 5
    before = len(greenlets())
    clients = [connected(engine) for _ in range(20)]
    for client in clients:
        client.schedule_ping()
    for _ in range(3):
        assert len(greenlets()) <= before + 1
        until(lambda: all(client.last_ping for client in clients))
        assert [client.queue.get().encode() for client in clients] == ["2"] * 20
        for client in clients:
            client.receive(Packet(PONG))
    clients[0].closing = True
    clients[0].ping()
    assert clients[0].queue.empty()


def greenlets() -> list[gevent.Greenlet]:
    return [thing for thing in gc.get_objects() if isinstance(thing, gevent.Greenlet) and not thing.dead]
