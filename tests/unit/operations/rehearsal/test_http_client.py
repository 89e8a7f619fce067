"""Requests over fresh and over keep-alive connections, to a server that counts its connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from app.operations.rehearsal.http_client import BalancerClient, NoResponse
from harness.processes import free_port

PROBLEM = b'{"detail": "The database does not answer."}'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections: set[object]

    def do_GET(self) -> None:
        self.connections.add(self.client_address)
        is_problem = self.path == "/problem"
        self.send_response(503 if is_problem else 200)
        self.send_header("X-Instance-Id", "instance-2")
        self.send_header("Content-Type", "application/problem+json" if is_problem else "text/plain")
        self.send_header("Set-Cookie", "__Host-session=a.b; Path=/; Secure")
        self.send_header("Set-Cookie", "__Host-device=c; Path=/; Secure")
        body = PROBLEM if is_problem else b"fine"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def client() -> Iterator[BalancerClient]:
    Handler.connections = set()
    with ThreadingHTTPServer(("127.0.0.1", free_port()), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        http = BalancerClient(f"http://127.0.0.1:{server.server_port}")
        yield http
        http.close()
        server.shutdown()
        thread.join()


def test_only_keep_alive_connections_are_reused(client: BalancerClient) -> None:
    for _ in range(3):
        assert client.get("/", fresh=False).status == 200
    assert len(Handler.connections) == 1
    for _ in range(3):
        assert client.get("/").status == 200
    assert len(Handler.connections) == 4


def test_response_has_instance_and_cookies(client: BalancerClient) -> None:
    response = client.get("/")
    assert (response.instance, response.body) == ("instance-2", b"fine")
    assert response.cookies == {"__Host-session": "a.b", "__Host-device": "c"}


def test_error_names_instance_and_detail(client: BalancerClient) -> None:
    assert client.get("/problem").error == "instance-2: The database does not answer."


def test_refused_connection_raises_no_response() -> None:
    with pytest.raises(NoResponse, match="ConnectionRefusedError"):
        BalancerClient(f"http://127.0.0.1:{free_port()}").get("/")
