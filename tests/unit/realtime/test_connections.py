from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from engineio.packet import Packet

from app.core.errors import Unavailable
from app.realtime import connections as module
from app.realtime.connections import OPENED_AT, Connection, Connections, Identity

ADA, ADA_ELSEWHERE, BOB = Identity(1, 1, "a"), Identity(1, 1, "b"), Identity(2, 1, "c")


class Delivery:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def start(self) -> None: ...

    def deliver(self, item: dict[str, Any]) -> None:
        self.heard.append(item["seq"])

    def catch_up(self, head: int) -> None:
        self.heard.append(f"head {head}")

    def close(self) -> None:
        self.heard.append("closed")


class Server:
    """Of Socket.IO: it notes what it is told to send."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any]] = []
        self.environ: dict[str, dict[str, float]] = {}
        self.eio = SimpleNamespace(sockets={}, send_packet=self.send_packet)
        self.manager = SimpleNamespace(eio_sid_from_sid=lambda sid, _: f"engine {sid}", disconnect=lambda *_, **__: None)

    def send_packet(self, engine_sid: str, packet: Packet) -> None:
        assert packet.data[0] == "2"
        event, data = json.loads(packet.data[1:])
        self.sent.append((engine_sid.removeprefix("engine "), event, data))

    def disconnect(self, sid: str, *, ignore_queue: bool) -> None:
        self.sent.append((sid, "disconnect", None))

    def connect(self, sid: str, backlog: int = 0) -> None:
        self.eio.sockets[f"engine {sid}"] = Engine(backlog)


class Hosted(list[str]):
    """Rooms that have members here."""

    def join(self, room: str) -> None:
        self.append(room)

    def leave(self, room: str) -> None:
        self.remove(room)

    def wait_until_joined(self, room: str) -> None: ...


class Engine:
    def __init__(self, backlog: int) -> None:
        self.queue = SimpleNamespace(qsize=lambda: backlog)
        self.was_cut = False

    def close(self, *, wait: bool, abort: bool) -> None:
        assert (wait, abort) == (False, True)
        self.was_cut = True


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def hosted() -> Hosted:
    return Hosted()


@pytest.fixture
def held(server: Server, hosted: Hosted) -> Connections:
    """Sockets "1" and "2" of Ada, from two browsers, and "3" of Bob."""
    connections = Connections(server, drain_rate=1000, rooms=hosted)
    for sid, identity in {"1": ADA, "2": ADA_ELSEWHERE, "3": BOB}.items():
        server.connect(sid)
        connections.add(connections.open(sid, identity), Delivery())
    return connections


def heard(connection: Connection) -> list[Any]:
    return cast(Delivery, connection.delivery).heard


def test_a_notification_goes_to_all_sockets_of_its_user(held: Connections) -> None:
    held.on_notification({"user_id": 1, "item": {"seq": 7}})
    assert [heard(connection) for connection in held] == [[7], [7], []]


def test_an_analysis_goes_to_followers_who_read_and_want_it(held: Connections, server: Server) -> None:
    state = {"id": 1, "repository_id": 5}
    server.connect("2", backlog=module.CONGESTED_PACKETS)
    held["3"].muted.add(5)
    for user_id in (1, 2):
        held.on_analysis({"user_id": user_id, "analysis": state})
    assert server.sent == [("1", "analysis", state)]


def test_an_export_goes_to_whoever_ordered_it(held: Connections, server: Server) -> None:
    state = {"id": 1, "status": "running", "progress": 50, "rows": 7}
    server.connect("2", backlog=module.CONGESTED_PACKETS)
    held.on_export({"user_id": 1, "export": state})
    assert server.sent == [("1", "export", state)]


@pytest.mark.parametrize(
    ("ended", "sids"),
    [
        ({"reason": "signed_out", "key": "a", "user_id": None, "keep": None}, ["1"]),
        ({"reason": "revoked", "key": None, "user_id": 1, "keep": "a"}, ["2"]),
        ({"reason": "account_deleted", "key": None, "user_id": 1, "keep": None}, ["1", "2"]),
        ({"reason": "revoked", "key": "unknown", "user_id": None, "keep": None}, []),
    ],
)
def test_the_end_of_sessions(held: Connections, server: Server, ended: dict[str, Any], sids: list[str]) -> None:
    held.on_sessions_ended(ended)
    assert [(sid, event) for sid, event, _ in server.sent] == [
        (sid, event) for sid in sids for event in ("session_ended", "disconnect")
    ]
    assert {connection.sid for connection in held} == {"1", "2", "3"} - set(sids)


def test_sessions_that_are_no_longer_valid_end(held: Connections, server: Server) -> None:
    held.compare_sessions(lambda identities: set(identities) - {BOB})
    assert server.sent == [("3", "session_ended", {"reason": "expired"}), ("3", "disconnect", None)]


def test_nobody_is_sent_away_by_a_store_that_is_down(held: Connections, server: Server) -> None:
    def unavailable(_: list[Identity]) -> set[Identity]:
        raise Unavailable("Redis does not answer.")

    with pytest.raises(Unavailable):
        held.compare_sessions(unavailable)
    assert (len(held), server.sent) == (3, [])


def test_heads_wake_everybody_and_are_told_now_and_then(held: Connections, server: Server) -> None:
    held["1"].head_sent_at -= module.HEAD_SECONDS + 1
    held.compare_heads(lambda user_ids: {1: 9} if sorted(user_ids) == [1, 2] else {})
    assert [heard(connection) for connection in held] == [["head 9"], ["head 9"], ["head 0"]]
    assert server.sent == [("1", "head", {"head": 9})]


def test_those_who_do_not_introduce_themselves_are_cut(held: Connections, server: Server) -> None:
    now = time.monotonic()
    ages = {"engine 1": 1000.0, "engine new": 1.0, "engine old": module.INTRODUCTION_SECONDS + 1}
    for sid, age in ages.items():
        server.eio.sockets[sid] = Engine(0)
        server.environ[sid] = {OPENED_AT: now - age}
    held.remove_stale()
    assert [sid for sid, engine in server.eio.sockets.items() if engine.was_cut] == ["engine old"]


def test_one_that_went_while_it_was_let_in_is_forgotten(held: Connections, server: Server) -> None:
    gone, delivery = held["2"], heard(held["2"])
    del server.eio.sockets["engine 2"]
    held.remove_stale()
    assert (gone in held, delivery) == (False, ["closed"])
    held.remove("2")
    held.on_notification({"user_id": 1, "item": {"seq": 1}})
    assert delivery == ["closed"]


def test_a_stopping_instance_says_so_before_it_cuts(held: Connections, server: Server) -> None:
    assert held.disconnect_clients(1, lambda: True) == 3
    assert [(sid, event) for sid, event, _ in server.sent] == [("1", "draining"), ("2", "draining"), ("3", "draining")]
    assert all(0 <= data["reconnect_in_ms"] < module.RECONNECT_MS for _, _, data in server.sent)
    assert all(engine.was_cut for engine in server.eio.sockets.values())


def test_who_is_left_stays_when_the_instance_is_called_back(held: Connections, server: Server) -> None:
    answers = iter([True, True, True, False])
    assert held.disconnect_clients(1, lambda: next(answers, False)) == 2
    assert [engine.was_cut for engine in server.eio.sockets.values()].count(False) == len(server.eio.sockets) - 2


def test_where_there_is_no_time_all_go_at_once(held: Connections) -> None:
    assert held.disconnect_clients(0, lambda: True) == 3


def test_an_instance_hosts_a_user_while_there_is_a_socket(held: Connections, hosted: Hosted) -> None:
    assert sorted(hosted) == ["user:1", "user:1", "user:2"]
    held.remove("1")
    held.remove("1")
    held.remove("3")
    assert hosted == ["user:1"]


def test_a_room_is_joined_once_and_left_with_the_socket(held: Connections, hosted: Hosted) -> None:
    connection = held["3"]
    for _ in range(2):
        held.join(connection, "analytics")
    assert hosted.count("analytics") == 1
    held.remove("3")
    assert "analytics" not in hosted
    held.join(connection, "analytics")  # by a handler that is late
    assert "analytics" not in hosted
