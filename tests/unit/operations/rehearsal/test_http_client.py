"""Requests over fresh and over kept connections, to a server that counts its connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from app.operations.rehearsal.web import NoAnswer, Web
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
def web() -> Iterator[Web]:
    Handler.connections = set()
    with ThreadingHTTPServer(("127.0.0.1", free_port()), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        client = Web(f"http://127.0.0.1:{server.server_port}")
        yield client
        client.close()
        server.shutdown()
        thread.join()


def test_a_kept_connection_is_used_again_and_a_fresh_one_is_not(web: Web) -> None:
    for _ in range(3):
        assert web.get("/", fresh=False).status == 200
    assert len(Handler.connections) == 1
    for _ in range(3):
        assert web.get("/").status == 200
    assert len(Handler.connections) == 4


def test_an_answer_says_whose_it_is_and_what_the_browser_keeps(web: Web) -> None:
    answer = web.get("/")
    assert (answer.instance, answer.body) == ("instance-2", b"fine")
    assert answer.cookies == {"__Host-session": "a.b", "__Host-device": "c"}


def test_a_refusal_says_who_complains_of_what(web: Web) -> None:
    assert web.get("/problem").complaint == "instance-2: The database does not answer."


def test_where_nobody_listens_there_is_no_answer() -> None:
    with pytest.raises(NoAnswer, match="ConnectionRefusedError"):
        Web(f"http://127.0.0.1:{free_port()}").get("/")
