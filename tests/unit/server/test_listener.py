from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest

from app.server.listener import drain_and_close, is_open_in_process, is_readable


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(10)
        yield listener


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=0.3)


def test_new_connections_are_dropped_while_the_queue_empties_and_refused_later(listener: socket.socket) -> None:
    address = listener.getsockname()
    waiting = connect(address)
    dropped: list[str] = []

    def sleep(_: float) -> None:
        with pytest.raises(TimeoutError):
            connect(address)
        dropped.append("SYN")
        if is_readable(listener):
            listener.accept()[0].close()

    assert drain_and_close(listener, listener.close, sleep, 5)
    assert len(dropped) in (1, 2)
    with pytest.raises(ConnectionRefusedError):
        connect(address)
    waiting.close()


def test_another_holder_of_the_socket_can_still_accept(listener: socket.socket) -> None:
    with listener.dup() as other:
        assert drain_and_close(listener, listener.close, time.sleep, 1)
        with connect(other.getsockname()):
            assert is_readable(other)


def test_result_is_false_if_connections_were_not_accepted_in_time(listener: socket.socket) -> None:
    with connect(listener.getsockname()):
        assert not drain_and_close(listener, listener.close, lambda _: None, 0.3)


def test_socket_is_found_in_the_process_that_has_it_open(listener: socket.socket) -> None:
    assert is_open_in_process(os.getpid(), listener)
    assert not is_open_in_process(os.getppid(), listener)
    assert not is_open_in_process(2**22 + 1, listener)
