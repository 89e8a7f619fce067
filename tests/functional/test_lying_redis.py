"""A proxy between an instance and its Redis spoils one reply at a time. No session is lost, and nobody sees another one's."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest

from harness.fleet import NO_RATE_LIMITS
from harness.lateness import measured_lateness
from harness.servers import Instance, RedisServer, fleet_environment
from harness.users import User

QUICK_SECONDS = 3.5
USERS = 4
KINDS: dict[str, bytes | None] = {
    "drop": None,
    "delay": None,
    "repeat": None,
    "swap": None,
    "integer": b":1\r\n",
    "status": b"+OK\r\n",
    "wrong type": b"-WRONGTYPE Operation against a key\r\n",
    "empty": b"*0\r\n",
    "nothing": b"$-1\r\n",
}
POSITIONS = (1, 2, 3)


def frame_end(data: bytes, start: int = 0) -> int:
    """Return where a complete RESP value ends, or 0."""
    line = data.find(b"\r\n", start) + 2
    if line == 1:
        return 0
    kind, rest = data[start : start + 1], data[start + 1 : line - 2]
    if kind == b"$" and int(rest) >= 0:
        return line + int(rest) + 2 if len(data) >= line + int(rest) + 2 else 0
    if kind == b"*":
        for _ in range(int(rest)):
            if not (line := frame_end(data, line)):
                return 0
    return line


def frames(connection: socket.socket) -> Iterator[bytes]:
    data = b""
    with suppress(OSError):
        while received := connection.recv(65536):
            data += received
            while data and (end := frame_end(data)):
                yield data[:end]
                data = data[end:]


class LyingProxy:
    def __init__(self, port: int) -> None:
        self._redis_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._kind, self._countdown = "", 0
        threading.Thread(target=self._accept, daemon=True).start()

    def spoil(self, kind: str, position: int) -> None:
        """Spoil the reply to the command HGETALL number `position` from now on, once."""
        with self._lock:
            self._kind, self._countdown = kind, position

    @property
    def has_lied(self) -> bool:
        return self._countdown == 0

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                redis = socket.create_connection(("127.0.0.1", self._redis_port))
                self._sockets.append(redis)
                commands: deque[bytes] = deque()
                for target in (self._forward, self._reply):
                    threading.Thread(target=target, args=(client, redis, commands), daemon=True).start()

    def close(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for one in self._sockets:
            one.close()

    def _forward(self, client: socket.socket, redis: socket.socket, commands: deque[bytes]) -> None:
        for command in frames(client):
            commands.append(command)
            with suppress(OSError):
                redis.sendall(command)
        with suppress(OSError):
            redis.shutdown(socket.SHUT_RDWR)

    def _reply(self, client: socket.socket, redis: socket.socket, commands: deque[bytes]) -> None:
        held = b""
        for reply in frames(redis):
            command = commands.popleft() if commands else b""
            kind = self._fault() if b"HGETALL" in command else ""
            if kind == "drop":
                continue
            if kind == "swap":
                held = reply
                continue
            if kind == "delay":
                time.sleep(1.5)
            spoiled = KINDS.get(kind) or reply
            with suppress(OSError):
                client.sendall(spoiled * (2 if kind == "repeat" else 1) + held)
            held = b""
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _fault(self) -> str:
        with self._lock:
            if self._countdown == 0:
                return ""
            self._countdown -= 1
            return self._kind if self._countdown == 0 else ""


@pytest.fixture(scope="module")
def lying() -> Iterator[tuple[LyingProxy, RedisServer]]:
    with RedisServer() as server, closing(LyingProxy(server.port)) as proxy:
        yield proxy, server


def ask(user: User) -> tuple[int, str, float]:
    started = time.monotonic()
    answer = user.get("/api/auth/me")
    email = answer.json()["user"]["email"] if answer.status_code == 200 else ""
    return answer.status_code, email, time.monotonic() - started


def test_spoiled_replies_neither_end_nor_mix_up_sessions(lying: tuple[LyingProxy, RedisServer], database_url: str) -> None:
    proxy, server = lying
    environment = fleet_environment(f"redis://127.0.0.1:{proxy.port}/0", database_url, **NO_RATE_LIMITS)
    with Instance(environment) as instance, ThreadPoolExecutor(USERS) as executor, server.client() as client:
        users = [User(instance).register() for _ in range(USERS)]
        sessions = set(client.keys("session:*"))
        for kind in KINDS:
            for position in POSITIONS:
                proxy.spoil(kind, position)
                with measured_lateness() as lateness:
                    answers = list(executor.map(ask, users))
                for user, (status, email, seconds) in zip(users, answers, strict=True):
                    assert status in (200, 503), (kind, position, status)
                    assert email in ("", user.email), (kind, position)
                    assert seconds < QUICK_SECONDS + lateness.slack, (kind, position)
                assert proxy.has_lied
                assert set(client.keys("session:*")) == sessions, (kind, position)
        assert [ask(user)[:2] for user in users] == [(200, user.email) for user in users]


def test_single_read_would_end_a_session(lying: tuple[LyingProxy, RedisServer], database_url: str) -> None:
    proxy, server = lying
    environment = fleet_environment(f"redis://127.0.0.1:{proxy.port}/0", database_url, **NO_RATE_LIMITS)
    with Instance(environment, application="tests.faults.one_read_decides:app") as instance, server.client() as client:
        user = User(instance).register()
        before = set(client.keys("session:*"))
        proxy.spoil("wrong type", 1)
        assert not user.is_signed_in()
        assert len(before - set(client.keys("session:*"))) == 1
