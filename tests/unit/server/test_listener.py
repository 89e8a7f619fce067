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


def test_while_the_queue_empties_newcomers_are_not_answered_and_later_refused(listener: socket.socket) -> None:
    address = listener.getsockname()
    waiting = connect(address)
    seen: list[str] = []

    def sleep(_: float) -> None:
        with pytest.raises(TimeoutError):
            connect(address)
        seen.append("held back")
        if is_readable(listener):
            listener.accept()[0].close()

    assert drain_and_close(listener, listener.close, sleep, 5)
    assert len(seen) in (1, 2)
    with pytest.raises(ConnectionRefusedError):
        connect(address)
    waiting.close()


def test_who_has_the_same_socket_still_is_not_left_deaf(listener: socket.socket) -> None:
    with listener.dup() as other:
        assert drain_and_close(listener, listener.close, time.sleep, 1)
        with connect(other.getsockname()):
            assert is_readable(other)


def test_those_who_nobody_accepts_in_time_are_told(listener: socket.socket) -> None:
    with connect(listener.getsockname()):
        assert not drain_and_close(listener, listener.close, lambda _: None, 0.3)


def test_who_holds_a_socket(listener: socket.socket) -> None:
    assert is_open_in_process(os.getpid(), listener)
    assert not is_open_in_process(os.getppid(), listener)
    assert not is_open_in_process(2**22 + 1, listener)
