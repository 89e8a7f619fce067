"""An instance answers mutated requests alike with the own HTTP reader and without it, when gunicorn reads everything."""

from __future__ import annotations

import random
import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from harness.fleet import start_together
from harness.scale import count
from harness.servers import Instance, embedded_environment, migrate

CONVERSATIONS = count(400, 5_000)
HOST = b"Host: 127.0.0.1\r\n"
EVENTS = b'{"events": [{"name": "clicked", "category": "test"}]}'
JSON = b"Content-Type: application/json\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"


def request(method: bytes, target: bytes, headers: bytes = b"", body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"%b %b HTTP/%b\r\n%b%b\r\n%b" % (method, target, version, HOST, headers, body)


def chunked(*parts: bytes, trailers: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n%b\r\n" % trailers


LENGTH = b"Content-Length: %d\r\n" % len(EVENTS)
CHUNKS = b"Transfer-Encoding: chunked\r\n"
REQUESTS = [
    request(b"GET", b"/health/live"),
    request(b"GET", b"/health/live", b"Accept: */*\r\nCookie: a=b\r\nUser-Agent: test\r\nX-Request-Id: abc\r\n"),
    request(b"GET", b"/health/live", b"Connection: close\r\n"),
    request(b"GET", b"/health/live", version=b"1.0"),
    request(b"GET", b"/login?next=%2Fsettings&x=%C3%A4", b"Accept: text/html\r\nCookie: a=b\r\nCookie: c=d\r\n"),
    request(b"GET", b"/static/live.js", b"Range: bytes=10-19\r\n"),
    request(b"GET", b"/nowhere//%2e%2e/x"),
    request(b"GET", b"/api/nowhere", b"Content-Length: 3\r\n", b"abc"),
    request(b"HEAD", b"/login"),
    request(b"OPTIONS", b"/api/auth/me"),
    request(b"DELETE", b"/login"),
    request(b"POST", b"/api/auth/logout", b"Content-Length: 0\r\n"),
    request(b"POST", b"/api/analytics/events", JSON + LENGTH, EVENTS),
    request(b"POST", b"/api/analytics/events", JSON + LENGTH + b"Expect: 100-continue\r\n", EVENTS),
    request(b"POST", b"/api/analytics/events", JSON + CHUNKS, chunked(EVENTS[:9], EVENTS[9:])),
    request(b"POST", b"/nowhere", CHUNKS, chunked(b"GET /login HTTP/1.1\r\n\r\n", trailers=b"X-Trailer: a\r\n")),
    request(b"POST", b"/nowhere", LENGTH, EVENTS),
    request(b"POST", b"/login", FORM + CHUNKS, chunked(b"name=", b"nobody")),
    request(b"POST", b"/socket.io/?EIO=4&transport=polling&sid=x", CHUNKS, chunked(b"40")),
    request(b"GET", b"/socket.io/?EIO=4&transport=polling&sid=x"),
]
LINES = [
    b"Host: other.example",
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length: +5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity, chunked",
    b"Connection: close",
    b"Connection: keep-alive, Upgrade",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"Expect: other",
    b"Sec-GPC: 1",
    b"X_Forwarded_For: 1.2.3.4",
    b"X-Forwarded-For: 1.2.3.4",
    b" folded",
    b"Origin: https://evil.example",
]
ALPHABET = b'GETPOSTHEAD /?#%:;,_-\r\n\t \0\x7f\x80\xff{}[]"\\0123456789abcdef'
PROBE = request(b"GET", b"/health/live", b"Connection: close\r\n")  # is answered if the connection stays open, and ends it

VARYING = re.compile(rb'(?im)^((?:Date|Set-Cookie|X-Request-Id): ?)[^\r\n]*|("(?:request_id|sid)": ?)"[^"]*"|(<code>)[^<]*')


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Change a few bytes or a few lines of a request, or nothing."""
    kind = chance.randrange(4)
    if kind == 0:
        return data
    if kind == 1:
        changed = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            where = chance.randrange(len(changed))
            changed[where : where + chance.randint(0, 2)] = chance.choices(ALPHABET, k=chance.randint(0, 3))
        return bytes(changed)
    lines = data.split(b"\r\n")
    for _ in range(chance.randint(1, 2)):
        if kind == 2:
            lines.insert(chance.randint(1, len(lines) - 1), chance.choice(LINES))
        else:
            del lines[chance.randrange(len(lines))]
    return b"\r\n".join(lines)


def conversation(chance: random.Random) -> bytes:
    """Return what one connection sends."""
    data = b"".join(mutate(chance, chance.choice(REQUESTS)) for _ in range(chance.randint(1, 3)))
    if chance.random() < 0.1:
        data = data[: chance.randrange(len(data))]
    return data + PROBE


def converse(instance: Instance, data: bytes) -> bytes:
    """Return everything that the instance sends until it closes the connection, without values that vary.

    The data arrives as a whole: the text of an error may depend on how much of a request has arrived.
    """
    received = b""
    with socket.create_connection(("127.0.0.1", instance.port), timeout=10) as connection:
        connection.sendall(data)
        with suppress(OSError):  # closed after an error
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while part := connection.recv(65_536):
                received += part
    return without_varying_values(received)


def without_varying_values(received: bytes) -> bytes:
    return VARYING.sub(rb"\1\2\3", received)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Instance]]:
    """An instance with the own reader and one without it."""
    instances = []
    for plain in ("true", "false"):
        settings = {"INSTANCE_ID": "instance-1", "PLAIN_HTTP": plain, "RATE_LIMIT_LOGIN": "1000/s"}
        environment = embedded_environment(tmp_path_factory.mktemp("instance"), **settings)
        migrate(environment)
        instances.append(Instance({**environment, "PYTHONHASHSEED": "0"}))  # the order of methods in Allow
    with ExitStack() as stack:
        yield start_together(stack, instances)


@pytest.mark.parametrize("other", [b"Date: a\r\nDate: b\r\nServer: x", b"Date: a\r\nServer: y", b"Server: x\r\nDate: a"])
def test_differences_are_found(other: bytes) -> None:
    """A negative control of the comparison."""
    one = b"Date: c\r\nServer: x"
    assert without_varying_values(one) == without_varying_values(one.replace(b"c", b"d"))
    assert without_varying_values(one) != without_varying_values(other)


def test_mutated_conversations_are_answered_alike(pair: list[Instance]) -> None:
    chance = random.Random(1)  # noqa: S311 - reproducible test data
    statuses: Counter[bytes] = Counter()
    for _ in range(CONVERSATIONS):
        data = conversation(chance)
        own, gunicorns = (converse(instance, data) for instance in pair)
        assert own == gunicorns, data
        statuses.update(re.findall(rb"HTTP/1\.1 (\d+) ", own))
    assert {b"200", b"202", b"206", b"400", b"404", b"405"} <= statuses.keys()
    assert b"500" not in statuses
    assert all("Traceback" not in instance.log() for instance in pair)
