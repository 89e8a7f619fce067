from __future__ import annotations

from contextlib import closing, nullcontext, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from gevent.socket import socketpair
from gunicorn.config import Config
from gunicorn.http.errors import InvalidHeader

from app.server.connection import ClientConnection
from app.server.http_loop import serve_connection

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def serve(data: bytes, served: list[tuple[str, str]], *, plain_http: bool) -> None:
    """Serve the requests of one connection; append who served each one, "plain" or "gunicorn", and its path to `served`."""

    def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        served.append(("plain", environ["PATH_INFO"]))
        start_response("200 OK", [("Content-Length", "0")])
        return []

    worker: Any = SimpleNamespace(
        cfg=Config(),
        plain_http=plain_http,
        alive=True,
        wsgi=wsgi,
        yield_to_other_connections=lambda: None,
        handle_request=lambda _, request, *__: served.append(("gunicorn", request.path)),
    )
    ours, theirs = socketpair()
    with closing(ours), closing(theirs):
        theirs.sendall(data)
        theirs.shutdown(1)
        with suppress(StopIteration):  # gunicorn's way to end a connection
            serve_connection(worker, ClientConnection(ours), ("127.0.0.1", 80), ("127.0.0.1", 12345))


@pytest.mark.parametrize(("plain_http", "served_by"), [(True, "plain"), (False, "gunicorn")])
def test_plain_requests_can_be_left_to_gunicorn(plain_http: bool, served_by: str) -> None:
    served: list[tuple[str, str]] = []
    serve(REQUEST * 2, served, plain_http=plain_http)
    assert served == [(served_by, "/")] * 2


@pytest.mark.parametrize(
    ("head", "is_valid"),
    [
        ("HTTP/1.1\r\n", False),
        ("HTTP/1.1\r\nHost: a\r\nhost: a\r\n", False),
        ("HTTP/1.0\r\nHost: a\r\nHost: b\r\n", False),
        ("HTTP/1.1\r\nHost:\r\n", True),
        ("HTTP/1.0\r\n", True),
    ],
)
@pytest.mark.parametrize("plain_http", [True, False])
def test_request_needs_one_host(head: str, is_valid: bool, plain_http: bool) -> None:
    served: list[tuple[str, str]] = []
    with nullcontext() if is_valid else pytest.raises(InvalidHeader):
        serve(f"GET /a {head}\r\n".encode(), served, plain_http=plain_http)
    assert [path for _, path in served] == ["/a"] * is_valid
