from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.socket import socketpair
from gunicorn.config import Config

from app.server.connection import OpenConnections
from app.server.http_loop import serve_connection
from app.server.stop_report import StopPhase
from app.server.stop_sequence import StopSequence
from harness.processes import PATIENCE_SECONDS

HEAD = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX-Long: "


class Server:
    """A worker with one connection, on a socket pair."""

    def __init__(self, stack: ExitStack) -> None:
        ours, self.client = (stack.enter_context(closing(one)) for one in socketpair())
        self.client.settimeout(PATIENCE_SECONDS)
        self.connections = OpenConnections(10, lambda: 0)
        self.served: list[str] = []
        self.worker: Any = SimpleNamespace(
            cfg=Config(),
            plain_http=True,
            alive=False,
            connections=self.connections,
            lifecycle=SimpleNamespace(count_websockets=lambda: 0),
            log=logging.getLogger(__name__),
            yield_to_other_connections=lambda: None,
            handle_request=self._serve,
        )
        stack.callback(gevent.spawn(self._handle, ours).kill)

    def _handle(self, ours: Any) -> None:
        connection = self.connections.add(ours)
        try:
            serve_connection(self.worker, connection, ("127.0.0.1", 80), ("127.0.0.1", 12345))
        except StopIteration:
            pass
        finally:
            self.connections.remove(connection)

    def _serve(self, _: Any, request: Any, *__: Any) -> None:
        self.served.append(request.path)
        assert request.should_close()
        raise StopIteration

    def finish_requests(self, seconds: float) -> StopPhase:
        phase = StopPhase("requests")
        StopSequence(self.worker, [])._finish_requests(phase, time.monotonic() + seconds)
        return phase


@pytest.fixture
def server() -> Iterator[Server]:
    with ExitStack() as stack:
        yield Server(stack)


def test_stop_waits_for_the_rest_of_a_head(server: Server) -> None:
    server.client.sendall(HEAD)
    gevent.spawn_later(0.1, server.client.sendall, b"x\r\n\r\n")
    phase = server.finish_requests(5)
    assert (server.served, phase.cut_off) == (["/a"], "")


def test_stop_that_does_not_get_the_rest_of_a_head_is_not_clean(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.client.sendall(HEAD)
    assert server.finish_requests(0.1).cut_off == "1 cut off"
    assert "cut off: 1 requests whose head was incomplete" in caplog.text


def test_stop_serves_a_connection_that_was_just_accepted(server: Server) -> None:
    """Its greenlet has not run yet when the stop begins to wait for requests."""
    server.client.sendall(HEAD + b"x\r\n\r\n")
    assert not len(server.connections)
    phase = server.finish_requests(5)
    assert (server.served, phase.cut_off) == (["/a"], "")
