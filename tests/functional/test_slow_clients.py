"""Clients that send or receive slowly, and bodies that the application does not read."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from harness import web
from harness.machine import Machine
from harness.processes import PATIENCE_SECONDS
from harness.servers import Instance, wait_until
from tests.functional.conftest import StartFleet

LOGIN = b"POST /api/auth/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
UNREAD = b"POST /nope HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000000000\r\n\r\n"
EVICTIONS = re.compile(r"all 1000 connections were in use: closed (\d+) of slow clients")


@contextmanager
def slow_bodies_on_all_connections(instance: Instance) -> Iterator[Callable[[], None]]:
    """Yield a function that sends another byte of each body."""
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", instance.port))) for _ in range(1010)]

        def send(data: bytes) -> None:
            for connection in slow:
                with suppress(OSError):  # closed for one of the next
                    connection.sendall(data)

        send(LOGIN + b"{")
        yield lambda: send(b" ")


@pytest.mark.serial
def test_slow_bodies_on_all_connections_do_not_keep_others_out(start_fleet: StartFleet, machine: Machine) -> None:
    (instance,) = start_fleet(1, MAX_SOCKETS="10")
    with slow_bodies_on_all_connections(instance) as send_more:
        assert web.get(f"{instance.url}/health/live").status_code == 200  # once the instance has read what all of them sent
        for path in ["/health/live", "/login"] * 3:
            started = time.monotonic()
            assert web.get(instance.url + path, timeout=PATIENCE_SECONDS).status_code == 200
            assert time.monotonic() - started < machine.limit(1)
            send_more()
        wait_until(lambda: EVICTIONS.search(instance.log()), what="the evictions to be logged")
    evicted = [int(number) for number in EVICTIONS.findall(instance.log())]
    assert sum(evicted) > len(evicted)  # at most one line per second
    assert "Traceback" not in instance.log()


@pytest.mark.serial
def test_slow_bodies_that_are_not_evicted_keep_others_out(start_fleet: StartFleet) -> None:
    """The negative control of the test above."""
    (instance,) = start_fleet(1, application="tests.faults.slow_clients_stay:app", MAX_SOCKETS="10")
    with slow_bodies_on_all_connections(instance), pytest.raises(httpx.TimeoutException):
        web.get(f"{instance.url}/health/live", timeout=1)


def test_client_that_takes_a_response_too_slowly_is_disconnected(start_fleet: StartFleet) -> None:
    (instance,) = start_fleet(1, application="tests.faults.short_transfers:app")
    with requested_long_response(instance) as steady, requested_long_response(instance) as stuck:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert steady.recv(65_536)
            time.sleep(0.02)
        assert received_bytes(stuck) < 20_000_000  # what the buffers of the kernel hold
        assert steady.recv(65_536)
    expected = "closed 1 connections of slow clients, the last one during GET /long"
    wait_until(lambda: expected in instance.log(), what="the log line")
    assert "Traceback" not in instance.log()


@contextmanager
def requested_long_response(instance: Instance) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", instance.port), timeout=10) as connection:
        connection.sendall(b"GET /long HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        yield connection


def received_bytes(connection: socket.socket) -> int:
    """Receive up to the end of the connection."""
    received = 0
    with suppress(ConnectionError):
        while data := connection.recv(1 << 20):
            received += len(data)
    return received


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
