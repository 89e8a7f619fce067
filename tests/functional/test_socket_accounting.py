"""Clients try to bypass each limit of sockets, polls and upgrades. The instance counts what is open, and nothing is left."""

from __future__ import annotations

import itertools
import json
import re
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from harness import web
from harness.fleet import Fleet
from harness.scale import count
from harness.servers import Instance, PostgresServer, wait_until
from harness.sockets import WebSocket
from harness.users import User

PLACES, PLACES_OF_USER, PLACES_OF_NOBODY = 20, 4, 2
CYCLES = count(25, 300)

OPENED = re.compile(rb'"sid":"([^"]+)"')
KEY = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
UPGRADES = ["", "x", "websocket", "WebSocket", "h2c, websocket", "websocket, x", "h2c\r\nUpgrade: websocket"]
CONNECTIONS = ["keep-alive", "Upgrade", "keep-alive, upgrade", "close\r\nConnection: Upgrade"]
TRANSPORTS = ["polling", "websocket", "polling&transport=websocket", "websocket&transport=polling"]
PROTOCOLS = ["HTTP/1.1", "HTTP/1.0"]


class Variant(NamedTuple):
    """A request that different parsers might understand differently."""

    upgrade: str
    connection: str
    transport: str
    protocol: str
    fields: str

    def head(self, query: str, user: User | None) -> bytes:
        lines = [f"GET /socket.io/?EIO=4&transport={self.transport}{query} {self.protocol}", "Host: 127.0.0.1"]
        lines += [f"Connection: {self.connection}", *([f"Upgrade: {self.upgrade}"] if self.upgrade else []), self.fields]
        lines += [f"Cookie: {user.cookie_header}"] if user else []
        return "\r\n".join([*filter(None, lines), "", ""]).encode()


VARIANTS = [Variant(*values) for values in itertools.product(UPGRADES, CONNECTIONS, TRANSPORTS, PROTOCOLS, [KEY, ""])]
VARIANTS = VARIANTS[:: count(3, 1)]  # 3 is coprime to the number of values of each part


@pytest.fixture(scope="module")
def instance(postgres_server: PostgresServer) -> Iterator[Instance]:
    limits = {"MAX_SOCKETS": str(PLACES), "MAX_SOCKETS_PER_USER": str(PLACES_OF_USER)}
    application = "tests.functional.counting_application:app"
    with Fleet(postgres_server, size=1, settings=limits, application=application) as fleet:
        yield fleet.instances[0]


@pytest.fixture(scope="module")
def user(instance: Instance) -> User:
    return User(instance).register()


@pytest.fixture(autouse=True)
def _nothing_is_left(instance: Instance) -> Iterator[None]:
    tracebacks = instance.log().count("Traceback")
    yield
    wait_until_nothing_is_left(instance, 15, "tables")
    assert instance.log().count("Traceback") == tracebacks, instance.log()[-3000:]


def wait_until_nothing_is_left(instance: Instance, timeout: float, *groups: str) -> None:
    left: dict[str, int] = {}

    def is_empty() -> bool:
        left.clear()
        left.update({name: size for name, size in counts(instance, *groups).items() if size})
        return not left

    try:
        wait_until(is_empty, timeout)
    except AssertionError:
        raise AssertionError(f"left: {left}") from None


def counts(instance: Instance, *groups: str) -> dict[str, int]:
    response = web.get(f"{instance.url}/counts")
    assert response.status_code == 200, instance.log()[-3000:]
    found = response.json()
    return {name: size for group in groups for name, size in found[group].items()}


def tables(instance: Instance) -> dict[str, int]:
    return counts(instance, "tables")


class Client:
    """A polling connection."""

    def __init__(self, instance: Instance, user: User | None) -> None:
        self.instance, self.user = instance, user
        self.cookie = {"Cookie": user.cookie_header} if user else {}
        opened = wait_until(self._open, what="a place")
        self.query = f"&sid={json.loads(opened[1:])['sid']}"

    def _open(self) -> str | None:
        response = web.get(f"{self.instance.url}/socket.io/?EIO=4&transport=polling", headers=self.cookie)
        assert response.status_code in (200, 503)
        return response.text if response.status_code == 200 else None

    def post(self, body: str) -> int:
        url = f"{self.instance.url}/socket.io/?EIO=4&transport=polling{self.query}"
        return web.post(url, headers=self.cookie, content=body).status_code

    def poll(self) -> str:
        return web.get(f"{self.instance.url}/socket.io/?EIO=4&transport=polling{self.query}", headers=self.cookie).text

    def upgrade(self, *texts: str) -> WebSocket:
        websocket = WebSocket(self.instance, self.user, self.query)
        assert websocket.status == 101
        for text in texts:
            websocket.send_text(text)
        return websocket


def send(instance: Instance, head: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", instance.port), timeout=5)
    connection.sendall(head)
    return connection


def is_held(connection: socket.socket) -> bool:
    return not select.select([connection], [], [], 0)[0]


def beginning(connection: socket.socket) -> bytes:
    """The bytes received so far, at most the status line and the headers of a handshake."""
    return b"" if is_held(connection) else connection.recv(2000, socket.MSG_PEEK)


def test_each_connection_has_one_poll_and_one_upgrade_whatever_the_headers(instance: Instance) -> None:
    for variant in VARIANTS:
        with ExitStack() as stack:
            client = Client(instance, None)
            requests = [stack.enter_context(send(instance, variant.head(client.query, None))) for _ in range(4)]

            def open_and_counted(requests: list[socket.socket] = requests) -> list[tuple[int, int]]:
                now = tables(instance)
                polls = sum(map(is_held, requests))
                upgrades = sum(beginning(request).startswith(b"HTTP/1.1 101") for request in requests)
                return [(polls, now["polls"]), (upgrades, now["engine.websockets"])]

            wait_until(
                lambda: all(is_open == counted <= 1 for is_open, counted in open_and_counted()),
                what=f"the poll or the upgrade of {variant}",
            )
            assert client.post("1") == 200
            assert client.post("1") == 400


@pytest.mark.parametrize("signed_in", [False, True])
def test_each_handshake_takes_a_place_whatever_its_headers(instance: Instance, user: User, signed_in: bool) -> None:
    places = PLACES_OF_USER if signed_in else PLACES_OF_NOBODY
    owner = user if signed_in else None
    for variant in VARIANTS[:: count(4, 1)]:
        with ExitStack() as stack:
            requests = [stack.enter_context(send(instance, variant.head("", owner))) for _ in range(places + 2)]
            wait_until(lambda: not any(map(is_held, requests)), what="the responses")  # noqa: B023 - called at once
            heads = [beginning(request) for request in requests]
            opened = [OPENED.search(head) for head in heads if b" 200 " in head]
            polling = [found[1].decode() for found in opened if found]
            accepted = len(polling) + sum(b" 101 " in head for head in heads)
            assert accepted == tables(instance)["handshakes.places"]
            assert accepted in (0, places), variant
            for sid in polling:
                url = f"{instance.url}/socket.io/?EIO=4&transport=polling&sid={sid}"
                assert web.post(url, content="1", headers={"Cookie": user.cookie_header} if owner else {}).status_code == 200
        wait_until(lambda: not tables(instance)["handshakes.places"], what="the places")


def test_connecting_again_does_not_renew_the_rate_of_events(instance: Instance, user: User) -> None:
    client = Client(instance, user)
    for _ in range(2):
        assert client.post("\x1e".join(["40", "41"] * 50)) == 200
    wait_until(lambda: '44{"message":"Too many messages' in client.poll(), what="a refused connect")
    assert client.post("1") == 200


def post_both_ways(client: Client) -> None:
    assert client.post("1\x1e40") in (200, 400)
    assert client.post("40") == 400


def leave_after_connecting(client: Client) -> None:
    assert client.post("40\x1e1") == 200


def leave_without_upgrading(client: Client, *texts: str) -> WebSocket:
    websocket = client.upgrade(*texts)
    if texts:
        websocket.await_text("3probe")
    assert client.post("1") == 200
    return websocket


def leave_during_the_probe(client: Client) -> WebSocket:
    return leave_without_upgrading(client, "2probe")


def fail_to_upgrade(client: Client) -> WebSocket:
    websocket = client.upgrade("invalid")
    assert client.post("1") == 200
    return websocket


def leave_over_the_websocket(client: Client) -> WebSocket:
    return client.upgrade("2probe", "5", "40", "1")


def leave_twice(client: Client) -> WebSocket:
    return client.upgrade("2probe", "5", "1", "1", "40")


ENDS = [
    post_both_ways, leave_after_connecting, leave_without_upgrading, leave_during_the_probe, fail_to_upgrade,
    leave_over_the_websocket, leave_twice,
]  # fmt: skip


@pytest.mark.parametrize("signed_in", [False, True])
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_connections_that_end_in_any_way_leave_nothing(
    instance: Instance, user: User, end: Callable[[Client], WebSocket | None], signed_in: bool
) -> None:
    """The clients keep their WebSockets open and do not answer the close frame, so the server has to end them."""
    places = PLACES_OF_USER if signed_in else PLACES_OF_NOBODY
    with ExitStack() as stack:
        for _ in range(CYCLES):
            websocket = end(Client(instance, user if signed_in else None))
            if websocket:
                stack.callback(websocket.socket.close)
            assert tables(instance)["engine.websockets"] <= places
