"""Stand-ins for instances behind a proxy: they record the requests and answer as a test wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self

from harness.processes import free_port


class Request(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]
    turn: int  # number of the request on its connection, from 1


# Returns the status of the answer, or None to close the connection without an answer.
Answer = Callable[[Request], int | None]


class Backend:
    """An HTTP/1.1 server with keep-alive on a free port. It has the attributes of an instance that Balancer needs."""

    def __init__(self, instance_id: str, answer: Answer = lambda _: 200) -> None:
        self.environment = {"INSTANCE_ID": instance_id}
        self.port = free_port()
        self.requests: list[Request] = []
        self.opened: list[socket.socket] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self, answer))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server and close its connections."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in self.opened:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def received(self, method: str) -> int:
        return sum(request.method == method for request in self.requests)


def _handler(backend: Backend, answer: Answer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def setup(self) -> None:
            super().setup()
            backend.opened.append(self.connection)
            self.turn = 0

        def serve(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.turn += 1
            request = Request(self.command, self.path, dict(self.headers.items()), self.turn)
            backend.requests.append(request)
            status = answer(request)
            if status is None:
                self.close_connection = True
                return
            body = backend.environment["INSTANCE_ID"].encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = serve

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler
