from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

import gevent
import pytest
from gevent.event import Event
from gevent.socket import socket as Socket
from gevent.socket import socketpair

from app.realtime import websocket as websocket_module
from app.realtime.frames import BINARY, CLOSE, NOT_UTF8, PING, POLICY_VIOLATION, PONG, PROTOCOL_ERROR, TEXT, TOO_BIG, encode_close
from app.realtime.websocket import FRAME_BURST, MAX_MESSAGE_BYTES, MESSAGE_BURST, WebSocket
from harness.greenlets import until
from harness.processes import PATIENCE_SECONDS
from harness.sockets import receive_frame
from tests.unit.realtime.test_frames import masked

KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # the example of RFC 6455, 1.3


class Client:
    """The client of a WebSocket, and a record of the messages and the end that the server saw."""

    def __init__(self) -> None:
        ours, self.socket = socketpair()
        self.open: set[WebSocket] = set()
        self.received: list[str | bytes] = []
        self.closes = 0
        self.websocket = WebSocket(ours, KEY, self.open)
        self.websocket.set_handlers(self._on_message, self._on_close)
        self.socket.settimeout(PATIENCE_SECONDS)
        self._read = b""
        self.head = self._until(b"\r\n\r\n")

    def _on_message(self, message: str | bytes) -> None:
        self.received.append(message)

    def _on_close(self) -> None:
        self.closes += 1

    def send(self, *texts: str) -> None:
        self.socket.sendall(b"".join(masked(TEXT, text.encode()) for text in texts))

    def receive(self) -> tuple[int, bytes]:
        return receive_frame(self._exactly)

    def receive_close_code(self) -> int:
        opcode, payload = self.receive()
        assert opcode == CLOSE
        return int.from_bytes(payload[:2], "big")

    def is_disconnected(self) -> bool:
        try:
            return not self.socket.recv(1)
        except ConnectionError:
            return True

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._read:
            self._read += self.socket.recv(4096)
        found, _, self._read = self._read.partition(mark)
        return found

    def _exactly(self, count: int) -> bytes:
        parts = bytearray(self._read)
        while len(parts) < count:
            data = self.socket.recv(1 << 20)
            assert data, "the connection has ended"
            parts += data
        self._read = bytes(parts[count:])
        return bytes(parts[:count])


def run_loop() -> None:
    """Return when the event loop has handled what has been sent, which is readable at once."""
    for _ in range(3):  # the second iteration runs the greenlets that the first one has started
        gevent.idle()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.socket.close()
    until(lambda: client.closes == 1)
    assert client.open == set()


def test_handshake_is_accepted(client: Client) -> None:
    assert client.head.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: " + ACCEPT in client.head.splitlines()
    assert client.open == {client.websocket}


def test_messages_keep_their_order(client: Client) -> None:
    texts = [f"{number} ✓" for number in range(100)]
    client.send(*texts)
    client.socket.sendall(masked(BINARY, b"\xff"))
    until(lambda: client.received == [*texts, b"\xff"])
    for text in texts:
        client.websocket.send(text)
    assert [client.receive() for _ in texts] == [(TEXT, text.encode()) for text in texts]


def test_messages_are_handled_one_at_a_time(client: Client) -> None:
    go, begun = Event(), []

    def slowly(message: str | bytes) -> None:
        begun.append(message)
        go.wait()

    client.websocket.on_message = slowly
    client.send("a", "b")
    run_loop()
    client.send("c")
    run_loop()
    assert begun == ["a"]
    go.set()
    until(lambda: begun == ["a", "b", "c"])


def test_failing_handler_does_not_stop_the_reader(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *_: None)  # it would print the traceback

    def fail(_: str | bytes) -> None:
        raise RuntimeError("a fault")

    client.websocket.on_message = fail
    client.send("a")
    run_loop()
    client.websocket.on_message = client._on_message
    client.send("b")
    until(lambda: client.received == ["b"])


def test_pings_are_answered(client: Client) -> None:
    client.socket.sendall(masked(PING, b"beat") + masked(PONG, b"unasked"))
    assert client.receive() == (PONG, b"beat")


def test_queued_pongs_of_a_client_that_does_not_read_are_limited(client: Client) -> None:
    client.websocket.send("x" * 10_000_000)
    for _ in range(2 * websocket_module.MAX_QUEUED_PONGS):
        client.socket.sendall(masked(PING, b"beat"))
    until(lambda: client.websocket.backlog == websocket_module.MAX_QUEUED_PONGS)
    run_loop()
    assert client.websocket.backlog == websocket_module.MAX_QUEUED_PONGS
    assert client.receive() == (TEXT, b"x" * 10_000_000)
    assert [client.receive() for _ in range(websocket_module.MAX_QUEUED_PONGS - 1)] == [(PONG, b"beat")] * (
        websocket_module.MAX_QUEUED_PONGS - 1
    )


def test_large_messages_arrive_completely(client: Client) -> None:
    letters = "abc"
    for letter in letters:
        client.websocket.send(letter * 3_000_000)
    assert client.websocket.backlog == 3
    assert [client.receive() for _ in letters] == [(TEXT, letter.encode() * 3_000_000) for letter in letters]
    assert client.websocket.backlog == 0


# Closing


def test_close_frame_of_a_client_is_answered(client: Client) -> None:
    client.websocket.send("the last one")
    client.socket.sendall(masked(CLOSE, b"\x0b\xb8bye") + masked(TEXT, b"too late"))
    assert [client.receive(), client.receive()] == [(TEXT, b"the last one"), (CLOSE, b"\x0b\xb8")]
    assert client.is_disconnected()
    assert client.received == []


def test_close_frame_follows_queued_messages_and_waits_for_its_answer(client: Client) -> None:
    client.websocket.send("x" * 3_000_000)
    client.websocket.close()
    client.websocket.close(PROTOCOL_ERROR)
    client.websocket.send("too late")
    client.send("too late as well")
    assert client.receive() == (TEXT, b"x" * 3_000_000)
    assert client.receive() == (CLOSE, b"\x03\xe8")
    run_loop()
    assert (client.closes, client.received) == (0, [])
    client.socket.sendall(masked(CLOSE))
    assert client.is_disconnected()


def test_client_that_does_not_answer_a_close_frame_is_disconnected(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_module, "CLOSE_TIMEOUT_SECONDS", 0.02)
    client.websocket.close()
    assert client.receive() == (CLOSE, b"\x03\xe8")
    assert client.is_disconnected()


def test_client_that_does_not_read_is_disconnected(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_module, "SEND_TIMEOUT_SECONDS", 0.05)
    client.websocket.send("x" * 10_000_000)
    until(lambda: client.closes == 1)
    assert client.websocket.backlog == 0


def test_slow_client_has_the_timeout_for_each_message(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_module, "SEND_TIMEOUT_SECONDS", 0.2)
    for _ in range(10):
        client.websocket.send("x" * 2_000_000)
    for _ in range(10):
        gevent.sleep(0.05)
        assert client.receive() == (TEXT, b"x" * 2_000_000)
    assert client.closes == 0


def test_lost_client_is_noticed_while_sending(client: Client) -> None:
    client.websocket.send("x" * 10_000_000)
    run_loop()
    client.socket.close()
    until(lambda: client.closes == 1)
    client.websocket.send("lost")
    client.websocket.close()
    assert client.websocket.backlog == 0


def test_lost_client_is_noticed_after_its_message_was_handled(client: Client) -> None:
    go = Event()
    client.websocket.on_message = lambda _: go.wait()
    client.send("a")
    client.socket.close()
    run_loop()
    assert client.closes == 0
    go.set()


VIOLATIONS: list[tuple[Callable[[], bytes], int]] = [
    (lambda: masked(TEXT, b"\xff"), NOT_UTF8),
    (lambda: masked(TEXT, bytes(MAX_MESSAGE_BYTES + 1)), TOO_BIG),
    (lambda: masked(3), PROTOCOL_ERROR),
    (lambda: masked(CLOSE, b"\x00"), PROTOCOL_ERROR),
    (lambda: masked(TEXT, b"x") * (2 * MESSAGE_BURST), POLICY_VIOLATION),
    (lambda: masked(PONG) * (2 * FRAME_BURST), POLICY_VIOLATION),
]


@pytest.mark.parametrize(("data", "code"), VIOLATIONS)
def test_violation_closes_the_connection_with_its_code(client: Client, data: Callable[[], bytes], code: int) -> None:
    client.socket.sendall(data())
    assert client.receive_close_code() == code
    received = len(client.received)
    with suppress(BrokenPipeError):  # after an invalid close frame the server disconnects at once
        client.send("more")
    run_loop()
    assert len(client.received) == received < 2 * MESSAGE_BURST


def test_bursts_up_to_the_limits_are_allowed(client: Client) -> None:
    client.socket.sendall(masked(TEXT, b"x") * MESSAGE_BURST + masked(PONG) * (FRAME_BURST - MESSAGE_BURST - 1))
    client.socket.sendall(masked(CLOSE, encode_close(1001)[2:]))
    assert client.receive_close_code() == 1001
    assert len(client.received) == MESSAGE_BURST


# Resources


def greenlets() -> int:
    return sum(isinstance(thing, gevent.Greenlet) and not thing.dead for thing in gc.get_objects())


def test_idle_websocket_needs_no_greenlet_and_little_memory() -> None:
    count = 200
    pairs: list[tuple[Socket, Socket]] = [socketpair() for _ in range(count)]
    before = greenlets()
    tracemalloc.start()
    websockets: set[WebSocket] = set()
    for ours, _ in pairs:
        WebSocket(ours, KEY, websockets).set_handlers(lambda _: None, lambda: None)
    run_loop()
    for _, theirs in pairs:
        theirs.sendall(masked(TEXT, bytes(1000)))
    run_loop()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    until(lambda: greenlets() <= before)
    assert used / count < 3000
    for _, theirs in pairs:
        theirs.close()
    until(lambda: not websockets)


def test_ended_websocket_is_freed_without_the_garbage_collector() -> None:
    class Owner:
        """Refers to the WebSocket, which refers to it by its handlers."""

        def on_message(self, _: str | bytes) -> None: ...

        def on_close(self) -> None: ...

    owner = Owner()
    ours, theirs = socketpair()
    websockets: set[WebSocket] = set()
    websocket = WebSocket(ours, KEY, websockets)
    websocket.set_handlers(owner.on_message, owner.on_close)
    vars(owner)["websocket"] = websocket
    reference = weakref.ref(owner)
    gc.disable()
    try:
        del owner, websocket
        theirs.close()
        until(lambda: not websockets)
        until(lambda: reference() is None)
    finally:
        gc.enable()
