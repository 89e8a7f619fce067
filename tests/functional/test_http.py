"""HTTP connections of an instance: plain and other requests alternate on one connection, and idle connections are closed."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from harness.lateness import time_limit
from harness.processes import PATIENCE_SECONDS
from harness.servers import Instance, embedded_environment, migrate, wait_until
from harness.users import User

HOST = b"Host: 127.0.0.1\r\n"
PLAIN = b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n"
BODY = json.dumps({"email": "nobody@example.org", "password": "wrong horse battery"}).encode()
POST = (
    b"POST /api/auth/login HTTP/1.1\r\n"
    + HOST
    + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    + BODY
)
CHUNKED = (
    b"POST /api/auth/login HTTP/1.1\r\n"
    + HOST
    + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
)
UNREAD = b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 14\r\n\r\nGET / HTTP/1.1"  # a body that looks like a request
OLD = b"GET /health/live HTTP/1.0\r\n" + HOST + b"\r\n"  # the last one of its connection

CONVERSATION = [PLAIN, POST, PLAIN, PLAIN, CHUNKED, UNREAD, PLAIN, POST, POST, OLD]
STATUSES = [200, 401, 200, 200, 401, 404, 200, 401, 401, 200]

KEEP_ALIVE_SECONDS = 5.0  # gunicorn.conf.py
PART_BYTES, PARTS = 65_536, 1_000  # of the long answer


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    environment = embedded_environment(tmp_path_factory.mktemp("instance"), RATE_LIMIT_LOGIN="1000/h")
    migrate(environment)
    with Instance(environment, application="tests.faults.long_responses:app") as started:
        yield started


def connect(instance: Instance) -> socket.socket:
    return socket.create_connection(("127.0.0.1", instance.port), timeout=PATIENCE_SECONDS)


def statuses(connection: socket.socket) -> list[int]:
    """Return the statuses of all responses until the instance closes the connection."""
    found = []
    with connection, connection.makefile("rb") as stream:
        while stream.peek(1):
            answer = http.client.HTTPResponse(_Stream(stream))  # type: ignore[arg-type]
            answer.begin()
            answer.read()
            found.append(answer.status)
    return found


class _Stream:
    """A socket for http.client whose stream stays open after a response."""

    def __init__(self, stream: object) -> None:
        self._stream = stream

    def makefile(self, _mode: str) -> object:
        return _Kept(self._stream)


class _Kept:
    def __init__(self, stream: object) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def close(self) -> None: ...

    def flush(self) -> None: ...


@pytest.mark.parametrize("size", [1_000_000, 997, 61])
def test_plain_and_other_requests_alternate_on_one_connection(instance: Instance, size: int) -> None:
    connection = connect(instance)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = b"".join(CONVERSATION)
    for start in range(0, len(data), size):
        connection.sendall(data[start : start + size])
        time.sleep(0 if size > 10_000 else 0.002)
    assert statuses(connection) == STATUSES


@pytest.mark.parametrize("sent", [b"", PLAIN, PLAIN[:-2], POST[:-2]], ids=["nothing", "a request", "half a head", "half a body"])
def test_idle_connection_is_closed(instance: Instance, sent: bytes) -> None:
    """An instance waits longer for a body, because it may be in transit."""
    began = time.monotonic()
    connection = connect(instance)
    connection.sendall(sent)
    if sent == POST[:-2]:
        connection.settimeout(KEEP_ALIVE_SECONDS + 2)
        with connection, pytest.raises(TimeoutError):
            connection.recv(1)
        return
    with time_limit(KEEP_ALIVE_SECONDS + 4, "the end of the connection"):
        assert statuses(connection) == ([200] if sent == PLAIN else [])
    assert time.monotonic() - began > KEEP_ALIVE_SECONDS - 1


@pytest.mark.parametrize("malformed", [b"2\r\n{}x", b"x\r\n", b"0\r\nContent-Length: 1\r\n\r\n"], ids=["end", "size", "trailer"])
@pytest.mark.parametrize("path", [b"/api/auth/login", b"/login"])
def test_malformed_chunk_is_answered_with_400_and_ends_the_connection(instance: Instance, malformed: bytes, path: bytes) -> None:
    kind = b"application/json" if path.startswith(b"/api/") else b"application/x-www-form-urlencoded"
    head = b"POST %b HTTP/1.1\r\n%bContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % (path, HOST, kind)
    connection = connect(instance)
    connection.sendall(head + b"2\r\n  \r\n" + malformed + PLAIN)
    assert statuses(connection) == [400]
    assert "Traceback" not in instance.log()


def test_client_that_disconnects_during_a_response_is_no_error(instance: Instance) -> None:
    connection = connect(instance)
    connection.sendall(b"GET /long HTTP/1.1\r\n" + HOST + b"\r\n")
    assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    with connect(instance) as other:
        other.sendall(OLD)
        wait_until(lambda: "GET /long 200" in instance.log(), what="the request to be written down")
        assert statuses(other) == [200]
    assert "ERROR" not in instance.log()
    assert "Traceback" not in instance.log()


def test_long_response_is_complete(instance: Instance) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", instance.port, timeout=20)) as connection:
        connection.request("GET", "/long")
        assert len(connection.getresponse().read()) == PART_BYTES * PARTS


def test_several_cookie_lines_are_one_header(instance: Instance) -> None:
    user = User(instance).register()
    lines = f"Cookie: theme=dark\r\nCookie: reporadar_session=stale\r\nCookie: {user.cookie_header}\r\n".encode()
    request = b"GET /api/auth/me HTTP/1.1\r\n" + HOST + lines + b"Sec-GPC: 1\r\nSec-GPC: 1\r\nConnection: close\r\n\r\n"
    connection = connect(instance)
    connection.sendall(request)
    assert statuses(connection) == [200]
