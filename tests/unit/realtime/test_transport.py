from __future__ import annotations

import itertools
import time

import engineio
import gevent
import pytest
from engineio.exceptions import QueueEmpty
from engineio.packet import MESSAGE, Packet
from gevent.socket import socketpair

from app.realtime import transport
from app.realtime.transport import MAX_PACKETS_PER_POLL, MAX_PACKETS_WAITING, Rate, _WholeWrites, backlog, cut, harden


@pytest.fixture
def engine() -> engineio.Server:
    server = engineio.Server(async_mode="gevent", ping_interval=0.01, ping_timeout=0.01)
    server.on("message", lambda *_: None)
    harden(server, "instance-7")
    return server


def connected(engine: engineio.Server) -> engineio.server.socket.Socket:
    sid = engine.generate_id()
    engine.sockets[sid] = engineio.server.socket.Socket(engine, sid)
    return engine.sockets[sid]


def test_ids_name_the_instance(engine: engineio.Server) -> None:
    assert engine.generate_id().startswith("instance-7.")


def test_a_rate_is_so_many_at_once_and_then_so_many_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rate = Rate(2, 5)
    assert [rate.take() for _ in range(6)] == [True] * 5 + [False]
    now += 1
    assert [rate.take() for _ in range(3)] == [True, True, False]
    now += 1000
    assert (rate.take(6), rate.take(5)) == (False, True)


def test_a_poll_takes_no_more_than_clients_do_and_leaves_the_rest(engine: engineio.Server) -> None:
    client = connected(engine)
    for number in range(2 * MAX_PACKETS_PER_POLL + 1):
        client.send(Packet(MESSAGE, str(number)))
    cut(engine, client.sid)
    polls = [[int(packet.data) for packet in client.poll()] for _ in range(4)]
    assert [len(poll) for poll in polls] == [MAX_PACKETS_PER_POLL, MAX_PACKETS_PER_POLL, 1, 0]
    assert list(itertools.chain(*polls)) == list(range(2 * MAX_PACKETS_PER_POLL + 1))


def test_a_poll_of_nothing_ends(engine: engineio.Server) -> None:
    with pytest.raises(QueueEmpty):
        connected(engine).poll()


def test_who_does_not_read_is_cut_off(engine: engineio.Server) -> None:
    client = connected(engine)
    for _ in range(MAX_PACKETS_WAITING):
        engine.send_packet(client.sid, Packet(MESSAGE, "x"))
    assert (backlog(engine, client.sid), client.closed) == (MAX_PACKETS_WAITING, False)
    engine.send_packet(client.sid, Packet(MESSAGE, "x"))
    assert client.closed


def test_writes_are_whole_and_one_at_a_time() -> None:
    ours, theirs = socketpair()
    with ours, theirs:
        writer = _WholeWrites(ours)
        parts = [letter * 3_000_000 for letter in (b"a", b"b")]
        writing = [gevent.spawn(writer.send, part) for part in parts]
        received = bytearray()
        while len(received) < 6_000_000:
            received += theirs.recv(100_000)
        assert [greenlet.get() for greenlet in writing] == [3_000_000, 3_000_000]
    assert received == parts[0] + parts[1]


def test_a_write_that_takes_too_long_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "SEND_SECONDS", 0.05)
    ours, theirs = socketpair()
    with ours, theirs:
        with pytest.raises(BrokenPipeError):
            _WholeWrites(ours).send(bytes(10_000_000))
        with pytest.raises(OSError, match="Broken pipe"):
            ours.send(b"more")
