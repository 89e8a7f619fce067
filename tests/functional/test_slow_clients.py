"""Clients that send or receive slowly, and bodies that the application does not read."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, suppress

import pytest

from harness import web
from harness.servers import wait_until
from tests.functional.conftest import StartFleet

LOGIN = b"POST /api/auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
UNREAD = b"POST /nope HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000000000\r\n\r\n"


@pytest.mark.serial
def test_slow_bodies_on_all_connections_do_not_keep_others_out(start_fleet: StartFleet) -> None:
    (instance,) = start_fleet(1, MAX_SOCKETS="10")
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", instance.port))) for _ in range(1010)]
        for connection in slow:
            with suppress(OSError):  # closed for one of the next
                connection.sendall(LOGIN + b"{")
        for _ in range(3):
            began = time.monotonic()
            assert web.get(f"{instance.url}/health/live").status_code == 200
            assert web.get(f"{instance.url}/login").status_code == 200
            assert time.monotonic() - began < 2  # two requests, each on a connection of its own
            for connection in slow:
                with suppress(OSError):
                    connection.sendall(b" ")
    assert "Traceback" not in instance.log()


def test_unread_body_is_received_for_a_limited_size(start_fleet: StartFleet) -> None:
    (instance,) = start_fleet(1)
    sent = 0
    with socket.create_connection(("127.0.0.1", instance.port), timeout=5) as connection:
        connection.sendall(UNREAD)
        assert b" 404 " in connection.recv(20)
        with suppress(ConnectionError):
            while sent < 100_000_000:
                sent += connection.send(bytes(65_536))
    assert sent < 20_000_000  # what the buffers of the kernel hold


def test_stop_does_not_wait_for_an_unread_body(start_fleet: StartFleet) -> None:
    (instance,) = start_fleet(1)
    with socket.create_connection(("127.0.0.1", instance.port), timeout=5) as connection:
        connection.sendall(UNREAD)
        assert b" 404 " in connection.recv(20)
        assert instance.terminate() == 1
    wait_until(lambda: "stopped: forced" in instance.log(), 5, "the report of the stop")
    assert "cut off: POST /nope" in instance.log()
    assert "Traceback" not in instance.log()
