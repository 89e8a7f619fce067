"""HTTP as nearly all of it is, without gunicorn's parser and writer: a fifth of their CPU (`python -m bench.serving`).

Plain is a GET that has come as a whole, without a body and without a header that takes a decision; and an answer of a known,
moderate length. All else, and all that is broken, is left to gunicorn: nothing is taken here that it would refuse.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

from gunicorn import SERVER
from gunicorn.http.wsgi import FileWrapper, Response
from gunicorn.util import unquote_to_wsgi_str

MAX_HEADERS, MAX_TARGET = 100, 4000  # less than gunicorn's own limits
MAX_BODY_BYTES = 64 * 1024  # of an answer that is sent at once
NAMES_REMEMBERED = 1024
KEEP_ALIVE = "keep-alive"

_TARGET = re.compile(r"GET (/[\x21\x22\x24-\x7e]*) HTTP/1\.1")  # without a fragment
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^`|~-]+")  # without an underscore, which could hide a dash
_DECISIVE = frozenset(
    ("CONTENT-LENGTH", "CONTENT-TYPE", "TRANSFER-ENCODING", "TRAILER", "TE", "EXPECT", "UPGRADE", "HTTP2-SETTINGS")
)
_FIELDS = re.compile(r"(?:[A-Za-z0-9!#$%&'*+.^_`|~-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")
_STATUS = re.compile(r"[2-5][0-9]{2} [\t\x20-\x7e]*")
_WITHOUT_BODY = ("204", "304")
_OF_A_HOP = frozenset(("connection", KEEP_ALIVE, "proxy-authenticate", "te", "trailer", "transfer-encoding", "upgrade"))


class PlainRequest:
    """What gunicorn calls a request, as far as something is asked of it."""

    method, version, body, query, fragment = "GET", (1, 1), BytesIO(), "", ""
    headers: tuple[tuple[str, str], ...] = ()  # those that decide something

    def __init__(self, uri: str, environ: dict[str, Any]) -> None:
        self.uri = self.path = uri
        self.environ = environ
        self.must_close = False

    def force_close(self) -> None:
        self.must_close = True

    def should_close(self) -> bool:
        return self.must_close


def read(data: bytes, environ: dict[str, Any]) -> tuple[PlainRequest, bytes] | None:
    """The request at the beginning, and what follows it; None if gunicorn has to look at it. `environ`: of all requests."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].decode("latin-1")
    first, *lines = head.split("\r\n")
    target = _TARGET.fullmatch(first)
    if not target or len(first) > MAX_TARGET or len(lines) > MAX_HEADERS or _has_control(head, len(lines)):
        return None
    uri = target[1]
    path, _, query = uri.partition("?")
    own = {
        **environ,
        "wsgi.input": BytesIO(),
        "RAW_URI": uri,
        "PATH_INFO": unquote_to_wsgi_str(path) if "%" in path else path,
        "QUERY_STRING": query,
    }
    for line in lines:
        name, colon, value = line.partition(":")
        key = _key(name)
        if key is None or not colon or key in own:
            return None
        own[key] = value.strip(" \t")
    if own.get("HTTP_CONNECTION", KEEP_ALIVE).lower() != KEEP_ALIVE:
        return None
    return PlainRequest(uri, own), data[end + 4 :]


def _has_control(head: str, breaks: int) -> bool:
    return bool(_CONTROL.search(head)) or not head.count("\r") == head.count("\n") == breaks


@lru_cache(NAMES_REMEMBERED)
def _key(name: str) -> str | None:
    """Under which a header is found in the environ; None if it decides something, or is no header."""
    upper = name.upper()
    return None if upper in _DECISIVE or not _TOKEN.fullmatch(name) else "HTTP_" + upper.replace("-", "_")


class _Told(NamedTuple):
    status: str
    headers: list[tuple[str, str]]


class PlainResponse:
    """Waits with the head for the body, so that both go at once."""

    def __init__(self, request: PlainRequest, sock: Any, cfg: Any) -> None:
        self._request = request
        self._sock = sock
        self._cfg = cfg
        self._told: _Told | None = None
        self._by_gunicorn: Response | None = None

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if self._by_gunicorn:
            return self._by_gunicorn.start_response(status, headers, exc_info)
        if self._told and not exc_info:
            raise AssertionError("the response has begun already")
        self._told = _Told(status, headers)
        return lambda data: self._leave_to_gunicorn().write(data)

    @property
    def has_begun(self) -> bool:
        """Something of it was sent."""
        return self._by_gunicorn is not None and self._by_gunicorn.headers_sent

    def send(self, body: Iterable[bytes]) -> bool:
        """Whether the connection can be used again."""
        assert self._told
        length = None if self._by_gunicorn or isinstance(body, FileWrapper) else _plain_length(self._told)
        if length is None:
            return self._send_by_gunicorn(body)
        content = b"".join(body)[:length]
        data = _head(self._told, self._request.must_close) + content
        sent = self._sock.send(data)  # mostly all; gevent's sendall would first ask the kernel for the size of its buffer
        if sent < len(data):
            self._sock.sendall(data[sent:])
        return len(content) == length and not self._request.must_close

    def _send_by_gunicorn(self, body: Iterable[bytes]) -> bool:
        response = self._leave_to_gunicorn()
        if isinstance(body, FileWrapper):
            response.write_file(body)
        else:
            for part in body:
                response.write(part)
        response.close()
        return not response.should_close()

    def _leave_to_gunicorn(self) -> Response:
        if self._by_gunicorn is None:
            assert self._told
            self._by_gunicorn = Response(self._request, self._sock, self._cfg)
            self._by_gunicorn.start_response(*self._told)
        return self._by_gunicorn


def _plain_length(told: _Told) -> int | None:
    """Of the body; None if this is no plain answer."""
    names = {name.lower(): value for name, value in told.headers}
    length = names.get("content-length", "")
    is_plain = _STATUS.fullmatch(told.status) and told.status[:3] not in _WITHOUT_BODY and _OF_A_HOP.isdisjoint(names)
    return int(length) if is_plain and length.isdecimal() and int(length) <= MAX_BODY_BYTES else None


def _head(told: _Told, must_close: bool) -> bytes:
    """Raises ValueError for what would forge lines."""
    fields = "".join([f"{name}: {value}\r\n" for name, value in told.headers])
    if not _FIELDS.fullmatch(fields) or fields.count("\r\n") != len(told.headers):
        raise ValueError("a header of this response is none")
    connection = "close" if must_close else KEEP_ALIVE
    about = f"Server: {SERVER}\r\nDate: {_date(int(time.time()))}\r\nConnection: {connection}\r\n"
    return f"HTTP/1.1 {told.status}\r\n{about}{fields}\r\n".encode("latin-1")


@lru_cache(1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
