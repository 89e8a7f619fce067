from __future__ import annotations

import itertools

import engineio
import pytest
from engineio.exceptions import QueueEmpty
from engineio.packet import MESSAGE, Packet

from app.realtime.transport import MAX_PACKETS_PER_POLL, MAX_PACKETS_WAITING, backlog, cut, harden


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
