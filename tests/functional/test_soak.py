"""Ten minutes of random, half-open and hostile clients against one instance: afterwards everything is back where it began."""

from __future__ import annotations

import random
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest

from harness import web
from harness.fleet import Fleet
from harness.scale import full_only
from harness.servers import Instance, PostgresServer
from harness.sockets import CLOSE, HANDSHAKE, PING, WebSocket, memory
from harness.users import User
from tests.functional.test_socket_accounting import VARIANTS, counts, wait_until_nothing_is_left

WARM_UP_SECONDS, SECONDS = 20, 600
CLIENTS = 8
USERS = 4
LIMITS = {"MAX_SOCKETS": "40", "MAX_SOCKETS_PER_USER": "8"}
SETTLE_SECONDS = 120  # a polling client that vanished is noticed by a ping, after up to 65 s, and forgotten 20 s later
MEGABYTE = 2**20

PACKETS = [
    "1", "40", "41", "3", "5", "40\x1e1", "1\x1e40", '42["sync",{"after":0}]', '421["sync",{"after":-1}]', '420["unwatch",{}]',
    '42["connect"]', "4x", "9", '451-["sync",{"_placeholder":true,"num":0}]',
]  # fmt: skip
PARTS = [
    b"GET /login HT",
    b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    b"POST /socket.io/?EIO=4&transport=polling&sid=x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n4",
    b"POST /api/auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
]


class RandomClient:
    """Does one random thing after another in a thread."""

    def __init__(self, instance: Instance, users: list[User], seed: int) -> None:
        self._instance, self._users = instance, users
        self._random = random.Random(seed)  # noqa: S311 - a test
        self._actions: list[Callable[[ExitStack], None]] = [
            self._poll, self._poll, self._use_websocket, self._use_websocket, self._upgrade, self._upgrade, self._send_part,
            self._send_variants, self._send_frames, self._request_pages,
        ]  # fmt: skip

    def run(self, deadline: float, failures: list[BaseException]) -> None:
        try:
            while time.monotonic() < deadline:
                with ExitStack() as stack, suppress(OSError, httpx.TransportError):
                    self._random.choice(self._actions)(stack)
        except BaseException as error:
            failures.append(error)
            raise

    def _poll(self, stack: ExitStack) -> None:
        query, headers = self._open()
        for _ in range(self._random.randrange(6)):
            self._post(query, headers)
            if self._random.random() < 0.5:
                with suppress(httpx.ReadTimeout):
                    web.get(self._url(query), headers=headers, timeout=self._random.choice([0.01, 0.3]))

    def _use_websocket(self, stack: ExitStack) -> None:
        self._talk(stack.enter_context(WebSocket(self._instance, self._user())))

    def _upgrade(self, stack: ExitStack) -> None:
        user = self._user()
        query, headers = self._open(user)
        if self._random.random() < 0.7:
            self._post(query, headers, "40")
        websocket = stack.enter_context(WebSocket(self._instance, user, query))
        for text in ["2probe", "5"][: self._random.choice([0, 1, 2, 2])]:
            websocket.send_text(text)
        if self._random.random() < 0.4:
            self._post(query, headers)
        self._talk(websocket)

    def _talk(self, websocket: WebSocket) -> None:
        for _ in range(self._random.randrange(8)):
            websocket.send_text(self._random.choice(PACKETS))
        end = self._random.randrange(4)
        if end == 0:
            websocket.send(CLOSE, struct.pack("!H", 1000))
            websocket.ends()
        elif end == 1:
            websocket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset it
        elif end == 2:
            time.sleep(self._random.random())

    def _send_part(self, stack: ExitStack) -> None:
        connection = self._connect(stack)
        connection.sendall(self._random.choice(PARTS))
        time.sleep(self._random.random() / 2)

    def _send_variants(self, stack: ExitStack) -> None:
        """Many polls or upgrades of one connection, or handshakes, which differ in their headers."""
        user = self._user()
        query = self._random.choice(["", self._open(user)[0]])
        for _ in range(self._random.randrange(1, 10)):
            self._connect(stack).sendall(self._random.choice(VARIANTS).head(query, user))
        time.sleep(self._random.random() / 2)

    def _send_frames(self, stack: ExitStack) -> None:
        """Random bytes, or more pings than are allowed."""
        websocket = stack.enter_context(WebSocket(self._instance, self._user()))
        if self._random.random() < 0.5:
            websocket.socket.sendall(self._random.randbytes(2000))
        else:
            websocket.socket.sendall(websocket.frame(PING, b"x" * 100) * 2000)
        websocket.ends()

    def _request_pages(self, stack: ExitStack) -> None:
        for path in self._random.sample(["/login", "/health", "/metrics", "/api/auth/me", "/nope", "/socket.io/?EIO=3"], 3):
            web.get(self._instance.url + path)
        if self._random.random() < 0.1:  # the sockets of the session end
            place = self._random.randrange(len(self._users))
            leaver, self._users[place] = self._users[place], User(self._instance).register()
            web.post(f"{self._instance.url}/api/auth/logout", headers={"Cookie": leaver.cookie_header})

    def _user(self) -> User | None:
        return self._random.choice([*self._users, None])

    def _connect(self, stack: ExitStack) -> socket.socket:
        return stack.enter_context(socket.create_connection(("127.0.0.1", self._instance.port), timeout=10))

    def _open(self, user: User | None = None) -> tuple[str, dict[str, str]]:
        """Return the query and the headers of a polling connection, which does not exist if it was refused."""
        headers = {"Cookie": user.cookie_header} if user else {}
        opened = web.get(f"{self._instance.url}{HANDSHAKE}polling", headers=headers)
        sid = opened.text.partition('"sid":"')[2].partition('"')[0]
        return f"&sid={sid or secrets.token_hex(8)}", headers

    def _post(self, query: str, headers: dict[str, str], text: str = "") -> None:
        response = web.post(self._url(query), headers=headers, content=text or self._random.choice(PACKETS))
        assert response.status_code in (200, 400, 413), response.text

    def _url(self, query: str) -> str:
        return f"{self._instance.url}{HANDSHAKE}polling{query}"


@pytest.fixture
def instance(postgres_server: PostgresServer) -> Iterator[Instance]:
    with Fleet(postgres_server, size=1, settings=LIMITS, application="tests.functional.counting_application:app") as fleet:
        yield fleet.instances[0]


def run_clients(instance: Instance, users: list[User], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    failures: list[BaseException] = []
    seeds = [secrets.randbits(32) for _ in range(CLIENTS)]
    print(f"seeds: {seeds}")  # noqa: T201 - pytest shows it if the test fails
    clients = [RandomClient(instance, users, seed) for seed in seeds]
    threads = [threading.Thread(target=client.run, args=(deadline, failures)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def settled(instance: Instance) -> dict[str, Any]:
    """Wait until no table has an entry, and return the numbers of the process."""
    wait_until_nothing_is_left(instance, SETTLE_SECONDS, "tables", "remains")
    return {**counts(instance, "process"), "memory": memory(instance)}


@pytest.mark.serial
@full_only
def test_random_clients_leave_nothing_behind(instance: Instance) -> None:
    users = [User(instance).register() for _ in range(USERS)]
    run_clients(instance, users, WARM_UP_SECONDS)
    before = settled(instance)
    run_clients(instance, users, SECONDS)
    after = settled(instance)
    print(f"before: {before}, after: {after}")  # noqa: T201
    for name in ("connections", "greenlets", "descriptors"):
        assert after[name] <= before[name], name
    assert after["memory"] - before["memory"] < 10 * MEGABYTE
    assert "Traceback" not in instance.log()
