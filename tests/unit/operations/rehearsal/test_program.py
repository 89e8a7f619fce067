"""The process of a rehearsal: its log, and its end after a signal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import cast

import gevent
import pytest
from gevent.event import Event

from app.core import logs
from app.core.callbacks import do_nothing
from app.operations.rehearsal import clients, program
from app.operations.rehearsal.clients import ClientPool, SocketClient
from app.operations.rehearsal.load import ConstantRateLoad, kill_all
from app.operations.rehearsal.users import RehearsalUser

MANY = 30


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """A test that waits for something that never happens fails."""
    with gevent.Timeout(20):
        yield


class SlowPart:
    """A load, or a socket, that needs all others to end at the same time."""

    def __init__(self, others: list[SlowPart]) -> None:
        self._others = others
        self._all_are_ending = Event()
        self.is_ending = False

    def end(self) -> None:
        self.is_ending = True
        if all(other.is_ending for other in self._others):
            for other in self._others:
                other._all_are_ending.set()
        self._all_are_ending.wait()

    kill = close = end


def slow_parts() -> list[SlowPart]:
    parts: list[SlowPart] = []
    parts += [SlowPart(parts) for _ in range(MANY)]
    return parts


def test_loads_end_at_the_same_time() -> None:
    kill_all(cast(list[ConstantRateLoad], slow_parts()))


def test_sockets_are_closed_at_the_same_time() -> None:
    pool = ClientPool("http://127.0.0.1:1", [], 1, [], ["websocket"])
    pool._receivers = cast(list[SocketClient], slow_parts())
    pool.close()


def test_socket_that_does_not_close_delays_the_end_only_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "CLOSE_SECONDS", 0.05)
    pool = ClientPool("http://127.0.0.1:1", [], 1, [], ["websocket"])
    pool._receivers = cast(list[SocketClient], slow_parts()[1:])
    pool.close()


def test_interrupted_connections_are_not_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    connecting: set[SocketClient] = set()

    def connect(client: SocketClient) -> None:
        connecting.add(client)
        try:
            gevent.sleep(60)
        finally:
            connecting.discard(client)

    monkeypatch.setattr(SocketClient, "connect", connect)
    users = [RehearsalUser(number, "ada@example.org", "password") for number in range(MANY)]
    main = gevent.spawn(ClientPool("http://127.0.0.1:1", users, 1, [], ["websocket"]).connect)
    while not connecting:
        gevent.sleep(0)
    program._interruption(main)()
    with pytest.raises(KeyboardInterrupt):
        main.get()
    while connecting:
        gevent.sleep(0)


def test_second_signal_does_not_interrupt_the_deletion(capsys: pytest.CaptureFixture[str]) -> None:
    steps: list[str] = []

    def run() -> None:
        try:
            gevent.sleep(60)
        except KeyboardInterrupt:
            steps.append("interrupted")
            gevent.sleep(0.01)
            steps.append("deleted")

    main = gevent.spawn(run)
    interrupt = program._interruption(main)
    gevent.sleep(0)
    interrupt()
    while not steps:
        gevent.sleep(0)
    interrupt()
    main.get()
    assert steps == ["interrupted", "deleted"]
    assert capsys.readouterr().err.count("interrupted") == 1


@pytest.fixture
def restored_levels() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in ("audit", "engineio.client")}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("restored_levels")
def test_lost_connections_are_not_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logs, "configure", do_nothing)
    program._configure_logs("text")
    logging.getLogger("engineio.client").error("packet queue is empty, aborting")
    logging.getLogger("app.operations").error("a defect")
    assert caplog.messages == ["a defect"]
