from __future__ import annotations

import errno
import os
import socket
from typing import Any

import gevent
import pytest
from gevent.server import StreamServer

from app.server.accept import PAUSE_SECONDS, RESERVED_DESCRIPTORS, DescriptorReserve, ReservingServer
from app.server.connection import OpenConnections


def none_left(*_: Any) -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[OSError]:
    """The shortages that were recorded."""
    found: list[OSError] = []
    monkeypatch.setattr("app.core.descriptors.shortage.record", found.append)
    return found


def test_reserve_makes_room_until_it_is_used_up(monkeypatch: pytest.MonkeyPatch, recorded: list[OSError]) -> None:
    reserve = DescriptorReserve()
    assert not reserve.is_used
    assert [reserve.release() for _ in range(RESERVED_DESCRIPTORS + 1)] == [True] * RESERVED_DESCRIPTORS + [False]
    with monkeypatch.context() as patched:
        patched.setattr(os, "dup", none_left)
        reserve.refill()
    assert reserve.is_used
    assert [error.errno for error in recorded] == [errno.EMFILE]
    reserve.refill()
    assert not reserve.is_used
    while reserve.release():
        pass


def test_server_that_cannot_accept_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop reports a waiting connection again and again, which would take all processor time."""
    attempts = 0

    def count(_: StreamServer) -> Any:
        nonlocal attempts
        attempts += 1
        none_left()

    monkeypatch.setattr(StreamServer, "do_read", count)
    reserve = DescriptorReserve()
    while reserve.release():
        pass
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        server = ReservingServer(reserve, OpenConnections(10, lambda: 0), listener, handle=lambda *_: None, spawn="default")
        server.start()
        with socket.create_connection(listener.getsockname()):
            gevent.sleep(5 * PAUSE_SECONDS)
            assert 1 <= attempts <= 10
            monkeypatch.undo()
            accepted: list[Any] = []
            server.set_handle(lambda *connection: accepted.append(connection))
            for _ in range(1000):
                gevent.sleep(PAUSE_SECONDS / 10)
                if accepted:
                    break
        server.stop()
    assert len(accepted) == 1
