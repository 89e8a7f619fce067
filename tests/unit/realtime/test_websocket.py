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

from app.realtime import websocket as module
from app.realtime.frames import BINARY, CLOSE, NOT_UTF8, PING, POLICY_VIOLATION, PONG, PROTOCOL_ERROR, TEXT, TOO_BIG, close_frame
from app.realtime.websocket import FRAMES_AT_ONCE, MAX_MESSAGE_BYTES, MESSAGES_AT_ONCE, WebSocket
from harness.sockets import receive_frame
from tests.unit.notifications.test_delivery import until
from tests.unit.realtime.test_frames import masked

KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of RFC 6455, 1.3


class Client:
    """The other end of a WebSocket, and all that happened here."""

    def __init__(self) -> None:
        ours, self.socket = socketpair()
        self.open: set[WebSocket] = set()
        self.heard: list[str | bytes] = []
        self.ends = 0
        self.websocket = WebSocket(ours, KEY, self.open)
        self.websocket.attend(self._hear, self._end)
        self.socket.settimeout(5)
        self._read = b""
        self.head = self._until(b"\r\n\r\n")

    def _hear(self, message: str | bytes) -> None:
        self.heard.append(message)

    def _end(self) -> None:
        self.ends += 1

    def say(self, *texts: str) -> None:
        self.socket.sendall(b"".join(masked(TEXT, text.encode()) for text in texts))

    def receive(self) -> tuple[int, bytes]:
        return receive_frame(self._exactly)

    def code(self) -> int:
        """With which the connection is closed next."""
        opcode, payload = self.receive()
        assert opcode == CLOSE
        return int.from_bytes(payload[:2], "big")

    def is_cut(self) -> bool:
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


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.socket.close()
    until(lambda: client.ends == 1)
    assert client.open == set()


def test_the_handshake_is_accepted(client: Client) -> None:
    assert client.head.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: " + ACCEPT in client.head.splitlines()
    assert client.open == {client.websocket}


def test_messages_come_and_go_in_their_order(client: Client) -> None:
    texts = [f"{number} ✓" for number in range(100)]
    client.say(*texts)
    client.socket.sendall(masked(BINARY, b"\xff"))
    until(lambda: client.heard == [*texts, b"\xff"])
    for text in texts:
        client.websocket.send(text)
    assert [client.receive() for _ in texts] == [(TEXT, text.encode()) for text in texts]


def test_one_message_is_handled_at_a_time_and_others_wait(client: Client) -> None:
    go, begun = Event(), []

    def slowly(message: str | bytes) -> None:
        begun.append(message)
        go.wait()

    client.websocket.hear = slowly
    client.say("a", "b")
    gevent.sleep(0.01)
    client.say("c")
    gevent.sleep(0.01)
    assert begun == ["a"]
    go.set()
    until(lambda: begun == ["a", "b", "c"])


def test_a_handler_that_fails_does_not_make_it_deaf(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *_: None)  # it would print the traceback

    def fail(_: str | bytes) -> None:
        raise RuntimeError("a fault")

    client.websocket.hear = fail
    client.say("a")
    gevent.sleep(0.01)
    client.websocket.hear = client._hear
    client.say("b")
    until(lambda: client.heard == ["b"])


def test_pings_are_answered(client: Client) -> None:
    client.socket.sendall(masked(PING, b"beat") + masked(PONG, b"unasked"))
    assert client.receive() == (PONG, b"beat")


def test_pings_of_one_that_does_not_read_do_not_pile_up(client: Client) -> None:
    client.websocket.send("x" * 10_000_000)
    for _ in range(2 * module.MAX_PONGS_WAITING):
        client.socket.sendall(masked(PING, b"beat"))
    until(lambda: client.websocket.backlog == module.MAX_PONGS_WAITING)
    gevent.sleep(0.01)
    assert client.websocket.backlog == module.MAX_PONGS_WAITING
    assert client.receive() == (TEXT, b"x" * 10_000_000)
    assert [client.receive() for _ in range(module.MAX_PONGS_WAITING - 1)] == [(PONG, b"beat")] * (module.MAX_PONGS_WAITING - 1)


def test_large_messages_arrive_whole(client: Client) -> None:
    letters = "abc"
    for letter in letters:
        client.websocket.send(letter * 3_000_000)
    assert client.websocket.backlog == 3
    assert [client.receive() for _ in letters] == [(TEXT, letter.encode() * 3_000_000) for letter in letters]
    assert client.websocket.backlog == 0


# Ends


def test_a_client_that_says_goodbye_is_answered(client: Client) -> None:
    client.websocket.send("the last one")
    client.socket.sendall(masked(CLOSE, b"\x0b\xb8bye") + masked(TEXT, b"too late"))
    assert [client.receive(), client.receive()] == [(TEXT, b"the last one"), (CLOSE, b"\x0b\xb8")]
    assert client.is_cut()
    assert client.heard == []


def test_a_close_comes_after_all_that_was_sent_and_waits_for_the_answer(client: Client) -> None:
    client.websocket.send("x" * 3_000_000)
    client.websocket.close()
    client.websocket.close(PROTOCOL_ERROR)
    client.websocket.send("too late")
    client.say("too late as well")
    assert client.receive() == (TEXT, b"x" * 3_000_000)
    assert client.receive() == (CLOSE, b"\x03\xe8")
    gevent.sleep(0.01)
    assert (client.ends, client.heard) == (0, [])
    client.socket.sendall(masked(CLOSE))
    assert client.is_cut()


def test_one_that_does_not_answer_a_close_is_cut_off(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANG_UP_SECONDS", 0.02)
    client.websocket.close()
    assert client.receive() == (CLOSE, b"\x03\xe8")
    assert client.is_cut()


def test_one_that_does_not_read_is_cut_off(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_SECONDS", 0.05)
    client.websocket.send("x" * 10_000_000)
    until(lambda: client.ends == 1)
    assert client.websocket.backlog == 0


def test_one_that_reads_slowly_has_its_time_for_each_message(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_SECONDS", 0.2)
    for _ in range(10):
        client.websocket.send("x" * 2_000_000)
    for _ in range(10):
        gevent.sleep(0.05)
        assert client.receive() == (TEXT, b"x" * 2_000_000)
    assert client.ends == 0


def test_one_that_vanishes_ends_while_it_is_being_written_to(client: Client) -> None:
    client.websocket.send("x" * 10_000_000)
    gevent.sleep(0.01)
    client.socket.close()
    until(lambda: client.ends == 1)
    client.websocket.send("to nobody")
    client.websocket.close()
    assert client.websocket.backlog == 0


def test_one_that_vanishes_ends_when_what_it_said_is_handled(client: Client) -> None:
    go = Event()
    client.websocket.hear = lambda _: go.wait()
    client.say("a")
    client.socket.close()
    gevent.sleep(0.01)
    assert client.ends == 0
    go.set()


FAULTS: list[tuple[Callable[[], bytes], int]] = [
    (lambda: masked(TEXT, b"\xff"), NOT_UTF8),
    (lambda: masked(TEXT, bytes(MAX_MESSAGE_BYTES + 1)), TOO_BIG),
    (lambda: masked(3), PROTOCOL_ERROR),
    (lambda: masked(CLOSE, b"\x00"), PROTOCOL_ERROR),
    (lambda: masked(TEXT, b"x") * (2 * MESSAGES_AT_ONCE), POLICY_VIOLATION),
    (lambda: masked(PONG) * (2 * FRAMES_AT_ONCE), POLICY_VIOLATION),
]


@pytest.mark.parametrize(("data", "code"), FAULTS)
def test_who_breaks_a_rule_is_told_which_and_heard_no_more(client: Client, data: Callable[[], bytes], code: int) -> None:
    client.socket.sendall(data())
    assert client.code() == code
    heard = len(client.heard)
    with suppress(BrokenPipeError):  # who has said goodbye, wrongly, is hung up on
        client.say("and on")
    gevent.sleep(0.01)
    assert len(client.heard) == heard < 2 * MESSAGES_AT_ONCE


def test_so_many_are_allowed(client: Client) -> None:
    client.socket.sendall(masked(TEXT, b"x") * MESSAGES_AT_ONCE + masked(PONG) * (FRAMES_AT_ONCE - MESSAGES_AT_ONCE - 1))
    client.socket.sendall(masked(CLOSE, close_frame(1001)[2:]))
    assert client.code() == 1001
    assert len(client.heard) == MESSAGES_AT_ONCE


# Costs


def greenlets() -> int:
    return sum(isinstance(thing, gevent.Greenlet) and not thing.dead for thing in gc.get_objects())


def test_an_idle_one_takes_no_greenlet_and_little_memory() -> None:
    count = 200
    pairs: list[tuple[Socket, Socket]] = [socketpair() for _ in range(count)]
    before = greenlets()
    tracemalloc.start()
    websockets: set[WebSocket] = set()
    for ours, _ in pairs:
        WebSocket(ours, KEY, websockets).attend(lambda _: None, lambda: None)
    gevent.sleep(0.01)
    for _, theirs in pairs:
        theirs.sendall(masked(TEXT, bytes(1000)))
    gevent.sleep(0.05)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    until(lambda: greenlets() <= before)
    assert taken / count < 3000
    for _, theirs in pairs:
        theirs.close()
    until(lambda: not websockets)


def test_one_that_ended_is_freed_at_once() -> None:
    class Keeper:
        """Of a WebSocket, which calls it."""

        def hear(self, _: str | bytes) -> None: ...

        def end(self) -> None: ...

    keeper = Keeper()
    ours, theirs = socketpair()
    open_ones: set[WebSocket] = set()
    websocket = WebSocket(ours, KEY, open_ones)
    websocket.attend(keeper.hear, keeper.end)
    vars(keeper)["websocket"] = websocket
    kept = weakref.ref(keeper)
    gc.disable()
    try:
        del keeper, websocket
        theirs.close()
        until(lambda: not open_ones)
        until(lambda: kept() is None)
    finally:
        gc.enable()
