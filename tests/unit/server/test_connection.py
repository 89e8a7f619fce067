"""The time limits of transfers, on socket pairs, and which connections are closed first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.socket import create_connection, socket, socketpair

from app.server import connection as connection_module
from app.server.connection import MIN_BYTES_PER_SECOND, ClientConnection, OpenConnections
from harness.greenlets import until
from harness.processes import PATIENCE_SECONDS

LIMIT = 0.3
SENDING_SECONDS = 60.0  # of a client that is too slow


@pytest.fixture(autouse=True)
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "TRANSFER_SECONDS", LIMIT)
    monkeypatch.setattr(connection_module, "CHECK_SECONDS", 0.05)


@pytest.fixture
def pair() -> Iterator[tuple[ClientConnection, Any]]:
    ours, theirs = socketpair()
    with closing(ours), closing(theirs):
        yield ClientConnection(ours), theirs


def test_client_that_sends_a_body_too_slowly_times_out(pair: tuple[ClientConnection, Any]) -> None:
    connection, client = pair
    sender = gevent.spawn(lambda: [(client.sendall(b"x"), gevent.sleep(0.02)) for _ in range(int(SENDING_SECONDS / 0.02))])
    began = time.monotonic()
    with pytest.raises(TimeoutError), connection.serving(object()):
        list(iter(lambda: connection.recv(100), b""))
    assert LIMIT * 0.9 < time.monotonic() - began < SENDING_SECONDS / 2
    sender.kill()


def test_client_above_the_minimum_rate_may_take_any_time(pair: tuple[ClientConnection, Any]) -> None:
    connection, client = pair
    part = bytes(MIN_BYTES_PER_SECOND // 5)  # 0.2 s
    sender = gevent.spawn(lambda: [(client.sendall(part), gevent.sleep(0.03)) for _ in range(20)])
    began, received = time.monotonic(), 0
    with connection.serving(object()):
        while received < 20 * len(part):
            received += len(connection.recv(1000))
    assert time.monotonic() - began > LIMIT
    sender.join()


def test_time_in_the_application_does_not_count(pair: tuple[ClientConnection, Any]) -> None:
    connection, client = pair
    with connection.serving(object()):
        gevent.sleep(LIMIT * 2)
        client.sendall(b"a")
        assert connection.recv(10) == b"a"


def test_client_that_does_not_receive_times_out(pair: tuple[ClientConnection, Any]) -> None:
    connection, _ = pair
    with gevent.Timeout(PATIENCE_SECONDS), pytest.raises(TimeoutError), connection.serving(object()):
        connection.sendall(bytes(10_000_000))


def test_slow_but_steady_receiver_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports the socket as writable only after a large part of its buffer is free."""
    monkeypatch.setattr(connection_module, "TRANSFER_SECONDS", 1.0)
    with ExitStack() as stack:
        listener = stack.enter_context(closing(socket()))
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client = stack.enter_context(closing(create_connection(listener.getsockname())))
        server, _ = listener.accept()
        stack.enter_context(closing(server))
        size = 6_000_000

        def receive() -> int:
            received = 0
            while received < size:
                received += len(client.recv(65_536))
                gevent.sleep(0.01)
            return received

        receiver = gevent.spawn(receive)
        connection = ClientConnection(server)
        with connection.serving(object()):
            connection.sendall(bytes(size))
        assert receiver.get(timeout=PATIENCE_SECONDS) == size


def test_connection_with_the_least_progress_is_closed_first(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection_module, "TRANSFER_SECONDS", 20.0)
    with ExitStack() as stack:
        connections, clients, receivers = OpenConnections(2, lambda: 0), [], []
        ended: list[int] = []
        received = [0, 0]

        def receive(number: int, connection: ClientConnection) -> None:
            with suppress(OSError), connection.serving(object()):
                while data := connection.recv(1000):
                    received[number] += len(data)
            ended.append(number)

        for number in range(2):
            ours, theirs = socketpair()
            stack.enter_context(closing(ours))
            clients.append(stack.enter_context(closing(theirs)))
            receivers.append(gevent.spawn(receive, number, connections.add(ours)))
        gevent.sleep(0.2)
        clients[0].sendall(bytes(5000))  # the older one makes progress
        until(lambda: received[0] == 5000)
        assert ended == []
        ours, theirs = socketpair()
        stack.enter_context(closing(ours))
        stack.enter_context(closing(theirs))
        connections.add(ours)
        until(lambda: ended)
        assert ended == [1]
        gevent.killall(receivers)
    for _ in range(2):
        connections.log_slow_clients()
    assert caplog.messages == ["all 2 connections were in use: closed 1 of slow clients"]


def test_timeouts_of_slow_clients_are_one_line_with_their_number(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    connections = OpenConnections(2, lambda: 0)
    for path in ("/a", "/b"):
        connections.add_timeout(SimpleNamespace(method="POST", path=path))
    for _ in range(2):
        connections.log_slow_clients()
    assert caplog.messages == ["closed 2 connections of slow clients, the last one during POST /b"]


def test_connection_whose_head_is_incomplete_is_not_idle_and_evicted_first(pair: tuple[ClientConnection, Any]) -> None:
    connection, client = pair
    receiver = gevent.spawn(receive_head, connection)
    client.sendall(b"GET / HT")
    until(lambda: connection.is_receiving_head)
    assert not connection.is_idle()
    left = connection.seconds_left()
    assert left is not None
    assert 0 < left <= 2
    client.sendall(b"TP/1.1")
    assert receiver.get(timeout=PATIENCE_SECONDS) == b"GET / HTTP/1.1"
    assert (connection.is_receiving_head, connection.seconds_left()) == (False, None)


def test_head_is_received_for_a_limited_time(pair: tuple[ClientConnection, Any]) -> None:
    connection, _ = pair
    with connection.receiving_head(0.05):
        connection.recv(10)
        pytest.fail("nothing has been sent")
    assert not connection.is_receiving_head


def receive_head(connection: ClientConnection) -> bytes:
    with connection.waiting():
        data = connection.recv(8)
    with connection.receiving_head(2):
        return data + connection.recv(100)
    return b"too late"


def test_rest_of_a_body_is_received_for_a_limited_time(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[ClientConnection, Any]
) -> None:
    monkeypatch.setattr(connection_module, "DRAIN_SECONDS", 0.1)
    connection, _ = pair
    with connection.serving("request"):
        pass
    is_complete = False
    with connection.draining("request"):
        connection.recv(10)
        is_complete = True
    assert not is_complete
