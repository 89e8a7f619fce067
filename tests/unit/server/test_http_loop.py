from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from gevent.socket import socketpair
from gunicorn.config import Config

from app.server.connection import ClientConnection
from app.server.http_loop import serve_connection

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(("plain_http", "served_by"), [(True, "plain"), (False, "gunicorn")])
def test_plain_requests_can_be_left_to_gunicorn(plain_http: bool, served_by: str) -> None:
    served: list[str] = []

    def wsgi(_: dict[str, Any], start_response: Any) -> list[bytes]:
        served.append("plain")
        start_response("200 OK", [("Content-Length", "0")])
        return []

    worker: Any = SimpleNamespace(
        cfg=Config(),
        plain_http=plain_http,
        alive=True,
        wsgi=wsgi,
        yield_to_other_connections=lambda: None,
        handle_request=lambda *_: served.append("gunicorn"),
    )
    ours, theirs = socketpair()
    with closing(ours), closing(theirs):
        theirs.sendall(REQUEST * 2)
        theirs.shutdown(1)
        serve_connection(worker, ClientConnection(ours), ("127.0.0.1", 80), ("127.0.0.1", 12345))
    assert served == [served_by] * 2
