"""Serves the requests of one client connection: plain GET requests directly, all others by gunicorn's parser and writer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gunicorn.http import get_parser
from gunicorn.http.errors import InvalidHeader

from app.server import plain_http
from app.server.connection import DRAIN_BYTES, ClientConnection
from app.server.plain_http import PlainRequest, PlainResponse

if TYPE_CHECKING:
    from app.server.worker import InstanceWorker

RECEIVE_BYTES = 8192


def serve_connection(worker: InstanceWorker, connection: ClientConnection, server_name: Any, address: Any) -> None:
    """Serve requests until the connection ends. gunicorn raises StopIteration after a request that has to be the last one."""
    client = connection.socket
    parser = get_parser(worker.cfg, connection, address)
    environ = plain_http.connection_environ(worker.cfg, connection, server_name, address)
    data = b""
    while True:
        if not data:
            with connection.waiting():
                data = client.recv(RECEIVE_BYTES)
        if not data:
            return
        if worker.plain_http and (found := plain_http.read(data, environ)):
            plain, data = found
            if not _serve_plain(worker, plain, connection):
                return
            continue
        parser.unreader.unread(data)
        request = None
        with connection.receiving_head(worker.cfg.keepalive):
            request = next(parser)
        if request is None:
            return
        _check_host(request)
        request.headers = _join_cookie_lines(request.headers)
        _prepare(worker, request, connection)
        with connection.serving(request):
            worker.handle_request(server_name, request, connection, address)
        is_drained = False
        with connection.draining(request):
            is_drained = parser.finish_body(max_bytes=DRAIN_BYTES)
        if not is_drained:
            return
        data = parser.unreader.take_buffered()


def _check_host(request: Any) -> None:
    """RFC 9112, section 3.2. gunicorn leaves this check to the application, which sees repeated headers as one."""
    hosts = [name for name, _ in request.headers].count("HOST")
    if hosts > 1 or (not hosts and request.version >= (1, 1)):
        raise InvalidHeader("Host", req=request)


def _join_cookie_lines(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Several `Cookie` lines are one header (RFC 9113, 8.2.3). gunicorn would join them by a comma, which is part of a value."""
    lines = [value for name, value in headers if name == "COOKIE"]
    if len(lines) < 2:
        return headers
    return [*(header for header in headers if header[0] != "COOKIE"), ("COOKIE", "; ".join(lines))]


def _prepare(worker: InstanceWorker, request: Any, connection: ClientConnection) -> None:
    worker.yield_to_other_connections()
    if not worker.alive or connection.is_on_reserve:
        request.force_close()


def _serve_plain(worker: InstanceWorker, request: PlainRequest, connection: ClientConnection) -> bool:
    """Return whether the connection can serve another request."""
    _prepare(worker, request, connection)
    response = PlainResponse(request, connection, worker.cfg)
    body: Any = None
    with connection.serving(request):
        try:
            body = worker.wsgi(request.environ, response.start_response)
            return response.send(body)
        except OSError:  # usually the client has closed the connection
            raise
        except Exception:
            if not response.has_begun:
                raise
            worker.log.exception("Error handling request %s %s", request.method, request.uri)
            return False
        finally:
            if hasattr(body, "close"):
                body.close()
