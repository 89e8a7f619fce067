"""The plain reader accepts only what gunicorn accepts, and returns the same environ."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import get_parser
from gunicorn.http.wsgi import FileWrapper, create
from gunicorn.util import hop_headers

from app.server import plain_http
from app.server.plain_http import PlainRequest, PlainResponse

CLIENT, SERVER = ("127.0.0.1", 12345), ("127.0.0.1", 8000)
NOT_COMPARED = {"wsgi.input", "wsgi.errors", "wsgi.file_wrapper", "wsgi.early_hints", "gunicorn.socket"}  # objects
BROWSER = (
    b"GET /repositories/1?sort=a%20b HTTP/1.1\r\n"
    b"Host: example.org\r\n"
    b"Connection: keep-alive\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
    b"Accept: text/html,*/*;q=0.8\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\n"
    b"Accept-Language:  de-DE \t\r\n"
    b"X-Forwarded-For: 203.0.113.7, 10.0.0.1\r\n"
    b"Sec-Fetch-Site: same-origin\r\n"
    b"Cookie: reporadar_session=abc.def; name=\xe4\r\n"
    b"\r\n"
)
PLAIN = [
    BROWSER,
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /%C3%A4%2Fb//c?x=%20&y HTTP/1.1\r\nHost: a\r\nX-Empty:\r\n\r\n",
    b"GET //double?a?b HTTP/1.1\r\nHost: a\r\n\r\n",
]
LEFT_TO_GUNICORN = {
    "incomplete": b"GET / HTTP/1.1\r\nHost: a\r\n",
    "no Host": b"GET / HTTP/1.1\r\nX: a\r\n\r\n",
    "another method": b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    "absolute target": b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment": b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
    "body": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
    "chunked body": b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\nHost : a\r\nContent-Length : 3\r\n\r\n",
    "expectation": b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
    "upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "Connection: close": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "underscore": b"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: a\r\n\r\n",
    "folded line": b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: a\r\n b\r\n\r\n",
    "repeated header": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "bare line feed": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare carriage return": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "null byte": b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
    "line without a colon": b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    "empty name": b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "name that becomes ASCII in upper case": b"GET / HTTP/1.1\r\nho\xdft: a\r\n\r\n",
    "long request line": b"GET /" + b"a" * 4_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(101)) + b"\r\n",
}
ALPHABET = b'GET /?#%:;,_-\r\n\t \0\x7f\x80\xff{}[]"\\ab01HTTP/1.1Content-Length:Transfer-Encoding:Upgrade'


@pytest.fixture(scope="module")
def cfg() -> Config:
    return Config()


def read_by_gunicorn(data: bytes, cfg: Config) -> dict[str, Any] | None:
    """The environ of the request, or None if gunicorn rejects it or needs more data."""
    parser = get_parser(cfg, iter([data]), CLIENT)
    try:
        request = next(parser)
        _, environ = create(request, _NullSocket(), CLIENT, SERVER, cfg)
    except Exception:
        return None
    environ["rest"] = request.unreader.take_buffered() if hasattr(request, "unreader") else b""
    return dict(environ)


def read_plainly(data: bytes) -> dict[str, Any] | None:
    found = plain_http.read(data, {"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1"})
    return None if found is None else {**found[0].environ, "rest": found[1]}


class _NullSocket:
    def send(self, _: bytes) -> None: ...


def difference(data: bytes, cfg: Config) -> str | None:
    """Between both readers, or None if they agree or the plain one leaves the request to gunicorn."""
    plain = read_plainly(data)
    if plain is None:
        return None
    known = read_by_gunicorn(data, cfg)
    if known is None:
        return f"gunicorn rejects {data!r}"
    same = {key: value for key, value in known.items() if key in plain or key.startswith(("HTTP_", "CONTENT_"))}
    found = {key: value for key, value in plain.items() if key not in NOT_COMPARED}
    expected = {key: value for key, value in same.items() if key not in NOT_COMPARED}
    return None if found == expected else f"{found} instead of {expected}"


@pytest.mark.parametrize("data", PLAIN)
def test_plain_request_is_read_as_gunicorn_reads_it(cfg: Config, data: bytes) -> None:
    assert read_plainly(data) is not None
    assert difference(data + b"GET /next", cfg) is None


@pytest.mark.parametrize("data", LEFT_TO_GUNICORN.values(), ids=LEFT_TO_GUNICORN)
def test_other_requests_are_left_to_gunicorn(data: bytes) -> None:
    assert read_plainly(data) is None


def test_mutated_requests_are_read_as_gunicorn_reads_them(cfg: Config) -> None:
    chance = random.Random(1)  # noqa: S311 - reproducible test data
    taken = 0
    for _ in range(20_000):
        data = bytearray(chance.choice(PLAIN))
        for _ in range(chance.randint(1, 3)):
            where = chance.randrange(len(data))
            data[where : where + chance.randint(0, 2)] = chance.choices(ALPHABET, k=chance.randint(0, 3))
        assert (problem := difference(bytes(data), cfg)) is None, problem
        taken += read_plainly(bytes(data)) is not None
    assert taken > 2_000


def test_bytes_of_the_next_request_are_returned() -> None:
    found = plain_http.read(PLAIN[1] * 2, {})
    assert found
    assert found[1] == PLAIN[1]


class ResponsePair:
    """A response, and the socket on which a client receives it."""

    def __init__(self, cfg: Config) -> None:
        self._here, self._there = socket.socketpair()
        self._cfg = cfg
        self.request = PlainRequest("/", {})

    def response(self) -> PlainResponse:
        return PlainResponse(self.request, self._here, self._cfg)

    def received(self) -> bytes:
        self._here.close()
        return b"".join(iter(lambda: self._there.recv(65_536), b""))

    def close(self) -> None:
        self._here.close()
        self._there.close()


@pytest.fixture
def pair(cfg: Config) -> Iterator[ResponsePair]:
    with closing(ResponsePair(cfg)) as opened:
        yield opened


def test_plain_response_is_sent_with_its_head(pair: ResponsePair) -> None:
    response = pair.response()
    response.start_response("200 OK", [("Content-Length", "4"), ("X-A", "b")])
    assert response.send([b"ab", b"cd"])
    head, _, body = pair.received().partition(b"\r\n\r\n")
    assert body == b"abcd"
    assert head.startswith(b"HTTP/1.1 200 OK\r\nServer: gunicorn\r\nDate: ")
    assert head.endswith(b" GMT\r\nConnection: keep-alive\r\nContent-Length: 4\r\nX-A: b")


def test_response_of_a_stopping_instance_closes_the_connection(pair: ResponsePair) -> None:
    response = pair.response()
    response.start_response("200 OK", [("Content-Length", "0")])
    pair.request.force_close()  # the stop began while the application ran
    assert not response.send([])
    assert b"Connection: close\r\n" in pair.received()


@pytest.mark.parametrize(
    ("status", "headers", "body", "end"),
    [
        ("200 OK", [], [b"ab", b"c"], b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
        ("204 No Content", [], [], b"Connection: keep-alive\r\n\r\n"),
        ("304 Not Modified", [("ETag", '"a"')], [], b'ETag: "a"\r\n\r\n'),
        ("200 OK", [("Content-Length", "70000")], [b"a" * 35_000] * 2, b"a" * 70_000),
        (
            "200 OK",
            [("Date", "x"), ("Server", "y"), ("Content-Length", "1")],
            [b"a"],
            b"Connection: keep-alive\r\nContent-Length: 1\r\n\r\na",
        ),
    ],
)
def test_other_responses_are_written_by_gunicorn(
    pair: ResponsePair, status: str, headers: list[tuple[str, str]], body: list[bytes], end: bytes
) -> None:
    response = pair.response()
    response.start_response(status, headers)
    assert response.send(body)
    assert pair.received().endswith(end)


def test_headers_that_gunicorn_drops_are_left_to_it() -> None:
    assert hop_headers == plain_http._DROPPED_BY_GUNICORN


def test_file_is_sent(pair: ResponsePair, tmp_path: Any) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    response = pair.response()
    response.start_response("200 OK", [("Content-Length", "7")])
    with file.open("rb") as opened:
        assert response.send(FileWrapper(opened))
    assert pair.received().endswith(b"\r\n\r\ncontent")


def test_response_that_is_too_short_closes_the_connection(pair: ResponsePair) -> None:
    response = pair.response()
    response.start_response("200 OK", [("Content-Length", "4")])
    assert not response.send([b"abc"])


@pytest.mark.parametrize(
    "header", [("X-A", "b\r\nX-B: c"), ("X-A: b\r\nX-B", "c"), ("X-A", "b\nc"), ("X A", "b"), ("X-A", "ä\0")]
)
def test_header_with_a_line_break_is_not_sent(pair: ResponsePair, header: tuple[str, str]) -> None:
    response = pair.response()
    response.start_response("200 OK", [("Content-Length", "0"), header])
    with pytest.raises(ValueError, match="invalid response header"):
        response.send([])
    assert pair.received() == b""


def test_error_response_replaces_a_head_that_was_not_sent(pair: ResponsePair) -> None:
    response = pair.response()
    response.start_response("200 OK", [("Content-Length", "0")])
    with pytest.raises(AssertionError):
        response.start_response("200 OK", [])
    response.start_response("500 Internal Server Error", [("Content-Length", "0")], (None, None, None))
    assert response.send([])
    assert pair.received().startswith(b"HTTP/1.1 500 ")


def test_application_may_use_the_write_function(pair: ResponsePair) -> None:
    response = pair.response()
    write = response.start_response("200 OK", [("Content-Length", "4")])
    assert not response.has_begun
    write(b"ab")
    assert response.has_begun
    assert response.send([b"cd"])
    assert pair.received().endswith(b"\r\n\r\nabcd")
