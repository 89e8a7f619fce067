from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from app.server.listener import ListenerUsers, drain_and_close, is_open_in_process, is_readable


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

    assert drain_and_close(listener, listener.close, sleep, 5, entered(listener))
    assert len(dropped) in (1, 2)
    with pytest.raises(ConnectionRefusedError):
        connect(address)
    waiting.close()


def test_another_holder_of_the_socket_can_still_accept(listener: socket.socket) -> None:
    with listener.dup() as other:
        assert drain_and_close(listener, listener.close, time.sleep, 1, entered(listener))
        with connect(other.getsockname()):
            assert is_readable(other)


def test_only_the_last_worker_removes_the_filter(listener: socket.socket) -> None:
    address, users = listener.getsockname(), entered(listener)
    with listener.dup() as other_program, other_worker(users, listener) as finish:
        assert drain_and_close(listener, listener.close, time.sleep, 0.1, users)
        with pytest.raises(TimeoutError):
            connect(address)
        finish()
        with connect(address):
            assert is_readable(other_program)


def test_killed_worker_no_longer_counts(listener: socket.socket) -> None:
    users = entered(listener)
    with other_worker(users, listener):
        pass
    with users.leaving(listener) as is_last:
        assert is_last


def entered(listener: socket.socket) -> ListenerUsers:
    users = ListenerUsers()
    users.enter(listener)
    return users


@contextmanager
def other_worker(users: ListenerUsers, listener: socket.socket) -> Iterator[Callable[[], None]]:
    """A process that uses the listener until it is killed, or until the function is called."""
    reader, writer = socket.socketpair()
    with reader, writer:
        if not (pid := os.fork()):
            users.enter(listener)
            reader.send(b"entered")
            reader.recv(1)
            drain_and_close(listener, listener.close, time.sleep, 0.1, users)
            os._exit(0)
        writer.recv(10)

        def finish() -> None:
            nonlocal pid
            writer.send(b"x")
            os.waitpid(pid, 0)
            pid = 0

        try:
            yield finish
        finally:
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def test_result_is_false_if_connections_were_not_accepted_in_time(listener: socket.socket) -> None:
    with connect(listener.getsockname()):
        assert not drain_and_close(listener, listener.close, lambda _: None, 0.3, entered(listener))


def test_socket_is_found_in_the_process_that_has_it_open(listener: socket.socket) -> None:
    assert is_open_in_process(os.getpid(), listener)
    assert not is_open_in_process(os.getppid(), listener)
    assert not is_open_in_process(2**22 + 1, listener)
