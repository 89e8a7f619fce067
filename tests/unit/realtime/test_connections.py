from __future__ import annotations

import time
from typing import Any

import gevent
import pytest

from app.core.errors import Unavailable
from app.realtime import connections as module
from app.realtime.connections import OPENED_AT, Connections, Identity
from harness.lateness import measured_lateness
from tests.unit.realtime.fakes import BOB, FakeEngineSocket, FakeServer, HostedRooms, calls, connections, hosted_rooms, server

__all__ = ["connections", "hosted_rooms", "server"]


@pytest.mark.parametrize(
    ("ended", "sids"),
    [
        ({"reason": "signed_out", "key": "a", "user_id": None, "keep": None}, ["1"]),
        ({"reason": "revoked", "key": None, "user_id": 1, "keep": "a"}, ["2"]),
        ({"reason": "account_deleted", "key": None, "user_id": 1, "keep": None}, ["1", "2"]),
        ({"reason": "revoked", "key": "unknown", "user_id": None, "keep": None}, []),
    ],
)
def test_sockets_of_ended_sessions_are_disconnected(
    connections: Connections, server: FakeServer, ended: dict[str, Any], sids: list[str]
) -> None:
    connections.on_sessions_ended(ended)
    assert [(sid, event) for sid, event, _ in server.sent] == [
        (sid, event) for sid in sids for event in ("session_ended", "disconnect")
    ]
    assert {connection.sid for connection in connections} == {"1", "2", "3"} - set(sids)


def test_invalid_session_is_ended(connections: Connections, server: FakeServer) -> None:
    connections.end_invalid_sessions(lambda identities: set(identities) - {BOB})
    assert server.sent == [("3", "session_ended", {"reason": "expired"}), ("3", "disconnect", None)]


def test_unavailable_store_disconnects_nobody(connections: Connections, server: FakeServer) -> None:
    def unavailable(_: list[Identity]) -> set[Identity]:
        raise Unavailable("Redis does not answer.")

    with pytest.raises(Unavailable):
        connections.end_invalid_sessions(unavailable)
    assert (len(connections), server.sent) == (3, [])


def test_heads_make_deliveries_catch_up_and_are_sent_after_the_interval(connections: Connections, server: FakeServer) -> None:
    connections["1"].head_sent_at -= module.HEAD_SECONDS + 1
    connections.compare_heads(lambda user_ids: {1: 9} if sorted(user_ids) == [1, 2] else {})
    assert [calls(connection) for connection in connections] == [["head 9"], ["head 9"], ["head 0"]]
    assert server.sent == [("1", "head", {"head": 9})]


def test_event_for_several_connections_skips_congested_ones(connections: Connections, server: FakeServer) -> None:
    server.connect("2", backlog=module.CONGESTED_PACKETS)
    connections.emit_to(connections.of_user(1), "export", {"id": 1})
    assert server.sent == [("1", "export", {"id": 1})]


def test_connection_without_socketio_connect_is_aborted_after_the_timeout(connections: Connections, server: FakeServer) -> None:
    now = time.monotonic()
    ages = {"engine 1": 1000.0, "engine new": 1.0, "engine old": module.HANDSHAKE_TIMEOUT_SECONDS + 1}
    for sid, age in ages.items():
        server.eio.sockets[sid] = FakeEngineSocket(0)
        server.environ[sid] = {OPENED_AT: now - age}
    connections.remove_stale()
    assert [sid for sid, engine in server.eio.sockets.items() if engine.is_aborted] == ["engine old"]


def test_connection_that_closed_during_connect_is_removed(connections: Connections, server: FakeServer) -> None:
    closed, delivery = connections["2"], calls(connections["2"])
    del server.eio.sockets["engine 2"]
    connections.remove_stale()
    assert (closed in connections, delivery) == (False, ["closed"])
    connections.remove("2")
    assert [connection.sid for connection in connections.of_user(1)] == ["1"]
    assert delivery == ["closed"]


def test_drain_announces_itself_before_it_disconnects(connections: Connections, server: FakeServer) -> None:
    assert connections.disconnect_clients(1, lambda: True) == 3
    assert [(sid, event) for sid, event, _ in server.sent] == [("1", "draining"), ("2", "draining"), ("3", "draining")]
    assert all(0 <= data["reconnect_in_ms"] < module.RECONNECT_SPREAD_MS for _, _, data in server.sent)
    assert all(engine.is_aborted for engine in server.eio.sockets.values())


def test_client_that_hands_over_is_asked_first_and_disconnected_last(
    connections: Connections, server: FakeServer, hosted_rooms: HostedRooms
) -> None:
    connections["3"].hands_over = True
    states: list[list[bool]] = []

    def is_draining() -> bool:
        states.append([engine.is_aborted for engine in server.eio.sockets.values()])
        return True

    assert connections.disconnect_clients(0.4, is_draining) == 3
    assert [sid for sid, _, _ in server.sent] == ["3", "1", "2"]
    assert server.sent[0][2] == {"reconnect_in_ms": 0, "reason": "stop"}
    assert [True, True, False] in states
    assert all(engine.is_aborted for engine in server.eio.sockets.values())
    assert [message.data["user_id"] for message in hosted_rooms.published] == [2, 1, 1]


def test_drain_ends_when_the_clients_that_hand_over_have_left(connections: Connections, server: FakeServer) -> None:
    for connection in connections:
        connection.hands_over = True
        gevent.spawn_later(0.05, connections.remove, connection.sid)
    began = time.monotonic()
    assert connections.disconnect_clients(60, lambda: True) == 3
    assert time.monotonic() - began < module.HANDOVER_SECONDS


def test_next_turn_waits_for_slow_handovers_as_far_as_the_time_allows(
    connections: Connections, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONCURRENT_HANDOVERS", 1)
    for connection in connections:
        connection.hands_over = True
    gevent.spawn_later(0.1, connections.remove, "1")
    began = time.monotonic()
    sent_at: list[float] = []
    monkeypatch.setattr(server.eio, "send_packet", lambda *_: sent_at.append(time.monotonic() - began))
    with measured_lateness() as lateness:
        connections.disconnect_clients(2, lambda: True)
    assert 0.1 <= sent_at[1] < 0.3 + lateness.slack  # the first one has left
    assert 0.5 <= sent_at[2] < 0.7 + lateness.slack  # the second one stays, but (2 - 1) * PLANNED_SHARE is divided among three


def test_each_connection_is_shed_once(connections: Connections, server: FakeServer) -> None:
    for connection in connections:
        connection.hands_over = True
    for staying in (2, 1, 0, 0):
        connections.shed_one()
        assert connections.staying == staying
    assert sorted(sid for sid, _, _ in server.sent) == ["1", "2", "3"]
    assert [data for _, _, data in server.sent] == [{"reconnect_in_ms": 0, "reason": "rebalance"}] * 3
    connections.remove("2")
    assert (len(connections), connections.staying) == (2, 0)


def test_client_that_is_cut_off_by_draining_is_not_waited_for(
    connections: Connections, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection with a full queue ends while `draining` is being sent."""
    for connection in connections:
        connection.hands_over = True
    monkeypatch.setattr(server.eio, "send_packet", lambda engine_sid, _: connections.remove(engine_sid.removeprefix("engine ")))
    connections.shed_one()
    assert (len(connections), connections.staying) == (2, 2)
    began = time.monotonic()
    connections.disconnect_clients(60, lambda: True)
    assert time.monotonic() - began < module.HANDOVER_SECONDS


def test_shed_client_that_does_not_hand_over_is_disconnected(connections: Connections, server: FakeServer) -> None:
    connections.shed_one()
    ((sid, _, data),) = server.sent
    assert (server.eio.sockets[f"engine {sid}"].is_aborted, data["reason"]) == (True, "rebalance")


def test_remaining_clients_stay_when_the_drain_is_cancelled(connections: Connections, server: FakeServer) -> None:
    answers = iter([True, True, True, False])
    assert connections.disconnect_clients(1, lambda: next(answers, False)) == 2
    assert [engine.is_aborted for engine in server.eio.sockets.values()].count(False) == len(server.eio.sockets) - 2


def test_drain_without_time_disconnects_all_at_once(connections: Connections) -> None:
    assert connections.disconnect_clients(0, lambda: True) == 3


def test_room_of_a_user_is_hosted_while_the_user_has_a_socket(connections: Connections, hosted_rooms: HostedRooms) -> None:
    assert sorted(hosted_rooms) == ["user:1", "user:1", "user:2"]
    connections.remove("1")
    connections.remove("1")
    connections.remove("3")
    assert hosted_rooms == ["user:1"]


def test_room_is_joined_once_and_left_with_the_connection(connections: Connections, hosted_rooms: HostedRooms) -> None:
    connection = connections["3"]
    for _ in range(2):
        connections.join(connection, "analytics")
    assert hosted_rooms.count("analytics") == 1
    connections.remove("3")
    assert "analytics" not in hosted_rooms
    connections.join(connection, "analytics")  # by a handler that runs late
    assert "analytics" not in hosted_rooms
