from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from socketio import Manager

from app.realtime.room_members import RoomMembers


class IndexedManager(RoomMembers, Manager):  # type: ignore[misc] # no type hints
    pass


class UnsearchableRooms(dict[Any, Any]):
    """The rooms of a namespace, which must not be iterated over."""

    def copy(self) -> NoReturn:
        raise AssertionError("iterated over all rooms")

    items = copy


def manager(kind: type[Manager]) -> Any:
    """A manager in which the sockets "a" and "b" share a room."""
    made = kind()
    ids = iter(["a", "b"])
    made.set_server(SimpleNamespace(packet_class=SimpleNamespace(json=None), eio=SimpleNamespace(generate_id=lambda: next(ids))))
    for number in (1, 2):
        sid = made.pre_connect(f"engine {number}", "/")
        made.connect(sid, "/")
        made.enter_room(sid, "/", "both")
        made.enter_room(sid, "/", f"of {sid}")
    return made


def disconnect_a(kind: type[Manager]) -> Any:
    made = manager(kind)
    made.rooms["/"] = UnsearchableRooms(made.rooms["/"])
    made.pre_disconnect("a", "/")
    made.disconnect("a", "/")
    return made


def test_disconnected_socket_is_in_no_room() -> None:
    made = disconnect_a(IndexedManager)
    assert set(made.rooms["/"]) == {None, "b", "both", "of b"}
    assert list(made.get_participants("/", "both")) == [("b", "engine 2")]
    assert (made.pending_disconnect, made.is_connected("a", "/"), made.is_connected("b", "/")) == ({}, False, True)
    made.disconnect("b", "/")
    assert (dict(made.rooms), dict(made._rooms_of)) == ({}, {})


def test_python_socketio_iterates_over_all_rooms() -> None:
    with pytest.raises(AssertionError, match="iterated"):
        disconnect_a(Manager)


def test_socket_that_left_a_room_disconnects() -> None:
    made = manager(IndexedManager)
    made.leave_room("a", "/", "both")
    made.close_room("of a", "/")
    made.disconnect("a", "/")
    made.disconnect("unknown", "/")
    assert set(made.rooms["/"]) == {None, "b", "both", "of b"}


def test_refused_socket_leaves_no_entries() -> None:
    made = manager(IndexedManager)
    made.server.eio.generate_id = lambda: "c"
    made.pre_connect("engine 3", "/")
    made.disconnect("c", "/")
    assert (made.pending_connect, "c" in made.rooms["/"], "c" in made._rooms_of) == ({}, False, False)
