from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Iterator
from typing import Any

import engineio
import gevent
import pytest
from engineio.exceptions import QueueEmpty
from engineio.packet import MESSAGE, PONG, Packet
from gevent.socket import socketpair

from app.realtime import transport
from app.realtime.frames import CLOSE, TEXT
from app.realtime.transport import MAX_PACKETS_PER_POLL, MAX_PACKETS_WAITING, backlog, cut, harden
from tests.unit.notifications.test_delivery import until
from tests.unit.realtime.test_frames import masked
from tests.unit.realtime.test_websocket import KEY


@pytest.fixture
def engine() -> engineio.Server:
    server = engineio.Server(async_mode="gevent", ping_interval=0.01, ping_timeout=0.01)
    server.on("message", lambda *_: None)
    harden(server, "instance-7")
    return server


def connected(engine: engineio.Server) -> engineio.server.socket.Socket:
    sid = engine.generate_id()
    engine.sockets[sid] = engineio.server.socket.Socket(engine, sid)
    return engine.sockets[sid]


def test_ids_name_the_instance(engine: engineio.Server) -> None:
    assert engine.generate_id().startswith("instance-7.")


def test_a_poll_takes_no_more_than_clients_do_and_leaves_the_rest(engine: engineio.Server) -> None:
    client = connected(engine)
    for number in range(2 * MAX_PACKETS_PER_POLL + 1):
        client.send(Packet(MESSAGE, str(number)))
    cut(engine, client.sid)
    polls = [[int(packet.data) for packet in client.poll()] for _ in range(4)]
    assert [len(poll) for poll in polls] == [MAX_PACKETS_PER_POLL, MAX_PACKETS_PER_POLL, 1, 0]
    assert list(itertools.chain(*polls)) == list(range(2 * MAX_PACKETS_PER_POLL + 1))


def test_a_poll_of_nothing_ends(engine: engineio.Server) -> None:
    with pytest.raises(QueueEmpty):
        connected(engine).poll()


def test_who_does_not_read_is_cut_off(engine: engineio.Server) -> None:
    client = connected(engine)
    for _ in range(MAX_PACKETS_WAITING):
        engine.send_packet(client.sid, Packet(MESSAGE, "x"))
    assert (backlog(engine, client.sid), client.closed) == (MAX_PACKETS_WAITING, False)
    engine.send_packet(client.sid, Packet(MESSAGE, "x"))
    assert client.closed


# Over WebSocket


def environ(query: str = "", ours: Any = None) -> dict[str, Any]:
    upgrade = {"HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "Upgrade", "HTTP_SEC_WEBSOCKET_KEY": KEY, "gunicorn.socket": ours}
    transport = "websocket" if ours else "polling"
    asked = {"REQUEST_METHOD": "GET", "PATH_INFO": "/socket.io/", "QUERY_STRING": f"EIO=4&transport={transport}{query}"}
    return asked | upgrade if ours else asked


class Browser:
    """A client with both transports."""

    def __init__(self, engine: engineio.Server) -> None:
        self.engine = engine
        self.sid = ""
        self.socket: Any = None
        self._read = b""

    def poll(self) -> list[str]:
        """What the next poll brings; the first one is the handshake."""
        query = f"&sid={self.sid}" if self.sid else ""
        (body,) = self.engine.handle_request(environ(query), lambda *_: None)
        packets: list[str] = body.decode().split("\x1e")
        self.sid = self.sid or json.loads(packets[0][1:])["sid"]
        return packets

    def open_websocket(self) -> None:
        ours, self.socket = socketpair()
        self.socket.settimeout(5)
        with pytest.raises(StopIteration):
            self.engine.handle_request(environ(f"&sid={self.sid}" if self.sid else "", ours), lambda *_: None)
        while not self._read.endswith(b"\r\n\r\n"):
            self._read += self.socket.recv(1)

    def say(self, text: str) -> None:
        self.socket.sendall(masked(TEXT, text.encode()))

    def hear(self) -> str:
        """A text, or `closed`."""
        head = self.socket.recv(2)
        payload = self.socket.recv(head[1] if head[1] < 126 else int.from_bytes(self.socket.recv(2), "big"))
        return "closed" if head[0] == 0x80 | CLOSE else payload.decode()


@pytest.fixture
def patient(engine: engineio.Server) -> engineio.Server:
    engine.ping_interval = engine.ping_timeout = 5
    engine.heard = []
    engine.handlers["message"] = lambda _, data: engine.heard.append(data)
    return engine


@pytest.fixture
def browser(patient: engineio.Server) -> Iterator[Browser]:
    browser = Browser(patient)
    yield browser
    if browser.socket:
        browser.socket.close()
        until(lambda: not patient.websockets)


def test_a_connection_may_begin_with_a_websocket(patient: engineio.Server, browser: Browser) -> None:
    browser.open_websocket()
    browser.sid = json.loads(browser.hear()[1:])["sid"]
    browser.say("4hello")
    until(lambda: patient.heard == ["hello"])
    patient.send(browser.sid, "and hello")
    assert browser.hear() == "4and hello"
    browser.socket.close()
    until(lambda: not patient.sockets)


def test_a_client_that_polls_moves_to_its_websocket_with_all_that_waits(patient: engineio.Server, browser: Browser) -> None:
    browser.poll()
    polling = gevent.spawn(browser.poll)
    gevent.sleep(0)
    browser.open_websocket()
    assert patient.sockets[browser.sid].upgrading
    browser.say("2probe")
    assert browser.hear() == "3probe"
    assert polling.get(timeout=5) == ["6"]
    patient.send(browser.sid, "meanwhile")
    assert browser.poll() == ["6"]
    browser.say("5")
    assert browser.hear() == "4meanwhile"
    client = patient.sockets[browser.sid]
    assert (client.upgraded, client.upgrading, patient.transport(browser.sid)) == (True, False, "websocket")
    assert backlog(patient, browser.sid) == 0


@pytest.mark.parametrize("said", [["5"], ["4x"], ["2"], ["2probe", "2probe"], ["2probe", "4x"], ["nonsense"]])
def test_a_client_whose_websocket_is_not_proven_polls_on(patient: engineio.Server, browser: Browser, said: list[str]) -> None:
    browser.poll()
    browser.open_websocket()
    for text in said:
        browser.say(text)
    heard = [browser.hear() for _ in said]
    assert heard == [*["3probe"][: len(said) - 1], "closed"]
    patient.send(browser.sid, "hello")
    assert browser.poll()[-1] == "4hello"
    assert not patient.sockets[browser.sid].upgrading


def test_a_websocket_that_is_never_proven_is_closed(
    patient: engineio.Server, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "UPGRADE_SECONDS", 0.02)
    browser.poll()
    browser.open_websocket()
    assert browser.hear() == "closed"
    assert not patient.sockets[browser.sid].upgrading


def test_an_earlier_websocket_does_not_give_up_for_a_later_one(patient: engineio.Server, browser: Browser) -> None:
    browser.poll()
    browser.open_websocket()
    browser.say("4x")
    assert browser.hear() == "closed"
    earlier = browser.socket
    browser.open_websocket()
    earlier.close()
    until(lambda: len(patient.websockets) == 1)
    assert patient.sockets[browser.sid].upgrading


def test_who_talks_nonsense_is_closed(patient: engineio.Server, browser: Browser) -> None:
    browser.open_websocket()
    browser.hear()
    browser.say("nonsense")
    assert browser.hear() == "closed"


def test_one_that_is_cut_is_sent_what_waits_and_closed(patient: engineio.Server, browser: Browser) -> None:
    browser.open_websocket()
    sid = json.loads(browser.hear()[1:])["sid"]
    patient.send(sid, "farewell")
    cut(patient, sid)
    patient.send(sid, "too late")
    assert [browser.hear(), browser.hear()] == ["4farewell", "closed"]


def test_one_that_answers_no_ping_is_closed(patient: engineio.Server, browser: Browser) -> None:
    patient.ping_interval, patient.ping_timeout = 0.01, 0.1
    browser.open_websocket()
    browser.hear()
    assert browser.hear() == "2"
    assert browser.hear() == "closed"


def test_one_that_answers_pings_stays(patient: engineio.Server, browser: Browser) -> None:
    patient.ping_interval, patient.ping_timeout = 0.01, 1.0
    browser.open_websocket()
    browser.hear()
    for _ in range(50):
        assert browser.hear() == "2"
        browser.say("3")


def test_pings_come_from_one_greenlet_and_again_after_each_answer(engine: engineio.Server) -> None:
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
