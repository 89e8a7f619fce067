"""Reads and writes the common case of HTTP without gunicorn's parser and writer, for a fifth of their CPU.

`python -m bench.serving` measures it: 30 us per request instead of 144. A plain request is a GET that arrived completely, has no
body and no header that changes how it is read. A plain response has a known length of at most MAX_BODY_BYTES. gunicorn handles
everything else, and everything malformed; this module accepts nothing that gunicorn would reject. PLAIN_HTTP=false turns it off.
"""

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

from gunicorn import SERVER
from gunicorn.http.wsgi import FileWrapper, Response, base_environ
from gunicorn.util import unquote_to_wsgi_str

MAX_HEADERS, MAX_REQUEST_LINE_BYTES = 100, 4000  # below gunicorn's own limits
MAX_BODY_BYTES = 64 * 1024
CACHED_HEADER_NAMES = 1024
KEEP_ALIVE = "keep-alive"

_REQUEST_LINE = re.compile(r"GET (/[\x21\x22\x24-\x7e]*) HTTP/1\.1")  # without a fragment
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^`|~-]+")  # without the underscore, which a proxy may take for a dash
_FOR_GUNICORN = frozenset(
    ("CONTENT-LENGTH", "CONTENT-TYPE", "TRANSFER-ENCODING", "TRAILER", "TE", "EXPECT", "UPGRADE", "HTTP2-SETTINGS")
)
_HEADER_LINES = re.compile(r"(?:[A-Za-z0-9!#$%&'*+.^_`|~-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")
_STATUS = re.compile(r"[2-5][0-9]{2} [\t\x20-\x7e]*")
_WITHOUT_BODY = ("204", "304")
# Headers of the application that gunicorn drops, because it sends its own or manages the connection.
_DROPPED_BY_GUNICORN = frozenset(
    (
        *("connection", KEEP_ALIVE, "proxy-authenticate", "proxy-authorization"),
        *("te", "trailers", "transfer-encoding", "upgrade", "server", "date"),
    )
)


class PlainRequest:
    """Has the attributes of gunicorn's request that its Response and this worker use."""

    method, version, body, query, fragment = "GET", (1, 1), BytesIO(), "", ""
    headers: tuple[tuple[str, str], ...] = ()  # gunicorn's error handler reads them for its access log

    def __init__(self, uri: str, environ: dict[str, Any]) -> None:
        self.uri = self.path = uri
        self.environ = environ
        self.must_close = False

    def force_close(self) -> None:
        self.must_close = True

    def should_close(self) -> bool:
        return self.must_close


def connection_environ(cfg: Any, client: Any, server_name: Any, address: Any) -> dict[str, Any]:
    """Return the part of the WSGI environ that all plain requests of a connection have in common."""
    return {
        **base_environ(cfg),
        "wsgi.multithread": True,
        "wsgi.url_scheme": "http",
        "gunicorn.socket": client,
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SCRIPT_NAME": "",
        "SERVER_NAME": server_name[0],
        "SERVER_PORT": str(server_name[1]),
        "REMOTE_ADDR": address[0],
        "REMOTE_PORT": str(address[1]),
    }


def read(data: bytes, shared_environ: dict[str, Any]) -> tuple[PlainRequest, bytes] | None:
    """Return the first request and the bytes after it, or None if gunicorn has to read it."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].decode("latin-1")
    first, *lines = head.split("\r\n")
    target = _REQUEST_LINE.fullmatch(first)
    if not target or len(first) > MAX_REQUEST_LINE_BYTES or len(lines) > MAX_HEADERS or _has_control(head, len(lines)):
        return None
    uri = target[1]
    path, _, query = uri.partition("?")
    environ = {
        **shared_environ,
        "wsgi.input": BytesIO(),
        "RAW_URI": uri,
        "PATH_INFO": unquote_to_wsgi_str(path) if "%" in path else path,
        "QUERY_STRING": query,
    }
    for line in lines:
        name, colon, value = line.partition(":")
        key = _environ_key(name)
        if key is None or not colon or key in environ:
            return None
        environ[key] = value.strip(" \t")
    if "HTTP_HOST" not in environ or environ.get("HTTP_CONNECTION", KEEP_ALIVE).lower() != KEEP_ALIVE:
        return None
    return PlainRequest(uri, environ), data[end + 4 :]


def _has_control(head: str, line_breaks: int) -> bool:
    return bool(_CONTROL.search(head)) or not head.count("\r") == head.count("\n") == line_breaks


@lru_cache(CACHED_HEADER_NAMES)
def _environ_key(name: str) -> str | None:
    """Return None for an invalid name and for a header that gunicorn has to handle."""
    upper = name.upper()
    return None if upper in _FOR_GUNICORN or not _TOKEN.fullmatch(name) else "HTTP_" + upper.replace("-", "_")


class ResponseHead(NamedTuple):
    status: str
    headers: list[tuple[str, str]]


class PlainResponse:
    """Delays the head until the body is known, so that one system call sends both."""

    def __init__(self, request: PlainRequest, sock: Any, cfg: Any) -> None:
        self._request = request
        self._sock = sock
        self._cfg = cfg
        self._head: ResponseHead | None = None
        self._gunicorn_response: Response | None = None

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if self._gunicorn_response:
            return self._gunicorn_response.start_response(status, headers, exc_info)
        if self._head and not exc_info:
            raise AssertionError("start_response was called twice")
        self._head = ResponseHead(status, headers)
        return lambda data: self._switch_to_gunicorn().write(data)

    @property
    def has_begun(self) -> bool:
        """Whether a part of it has been sent."""
        return self._gunicorn_response is not None and self._gunicorn_response.headers_sent

    def send(self, body: Iterable[bytes]) -> bool:
        """Return whether the connection can serve another request. Raises ValueError for an invalid header."""
        assert self._head
        length = None if self._gunicorn_response or isinstance(body, FileWrapper) else _plain_length(self._head)
        if length is None:
            return self._send_by_gunicorn(body)
        content = b"".join(body)[:length]
        data = _encode_head(self._head, self._request.must_close) + content
        self._sock.sendall(data)
        return len(content) == length and not self._request.must_close

    def _send_by_gunicorn(self, body: Iterable[bytes]) -> bool:
        response = self._switch_to_gunicorn()
        if isinstance(body, FileWrapper):
            response.write_file(body)
        else:
            for part in body:
                response.write(part)
        response.close()
        return not response.should_close()

    def _switch_to_gunicorn(self) -> Response:
        if self._gunicorn_response is None:
            assert self._head
            self._gunicorn_response = Response(self._request, self._sock, self._cfg)
            self._gunicorn_response.start_response(*self._head)
        return self._gunicorn_response


def _plain_length(head: ResponseHead) -> int | None:
    """Return the length of the body, or None if the response is not plain."""
    values = {name.lower(): value for name, value in head.headers}
    length = values.get("content-length", "")
    is_plain = _STATUS.fullmatch(head.status) and head.status[:3] not in _WITHOUT_BODY and _DROPPED_BY_GUNICORN.isdisjoint(values)
    return int(length) if is_plain and length.isdecimal() and int(length) <= MAX_BODY_BYTES else None


def _encode_head(head: ResponseHead, must_close: bool) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in head.headers])
    if not _HEADER_LINES.fullmatch(lines) or lines.count("\r\n") != len(head.headers):
        raise ValueError("invalid response header")
    connection = "close" if must_close else KEEP_ALIVE
    common = f"Server: {SERVER}\r\nDate: {_date(int(time.time()))}\r\nConnection: {connection}\r\n"
    return f"HTTP/1.1 {head.status}\r\n{common}{lines}\r\n".encode("latin-1")


@lru_cache(1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
