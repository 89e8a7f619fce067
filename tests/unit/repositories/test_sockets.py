from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from app.core.errors import NotFound
from app.core.messages import Message, user_room
from app.realtime.connections import CONGESTED_PACKETS, Connections
from app.realtime.message_queue import LocalMessageQueue
from app.repositories import sockets
from app.repositories.service import Repositories
from tests.unit.realtime.fakes import FakeServer, connections, hosted_rooms, server, socketio

__all__ = ["connections", "hosted_rooms", "server", "socketio"]

FOLLOWED = 5
STATE = {"id": 1, "repository_id": FOLLOWED}


class Followed:
    def require_followed(self, user_id: int, repository_id: int) -> None:
        if repository_id != FOLLOWED:
            raise NotFound("There is no such repository.")


@pytest.fixture
def queue(socketio: SimpleNamespace, connections: Connections) -> LocalMessageQueue:
    queue = LocalMessageQueue()
    sockets.init_app(socketio, queue, connections, cast(Repositories, Followed()))
    return queue


def publish(queue: LocalMessageQueue, *user_ids: int) -> None:
    queue.publish([Message(user_room(user_id), "analysis", {"user_id": user_id, "analysis": STATE}) for user_id in user_ids])


def test_analysis_skips_congested_sockets_and_those_that_do_not_watch(
    queue: LocalMessageQueue, server: FakeServer, socketio: SimpleNamespace
) -> None:
    server.connect("2", backlog=CONGESTED_PACKETS)
    assert socketio.handlers["unwatch"]("3", {"repository_id": FOLLOWED}) == {"ok": True}
    publish(queue, 1, 2)
    assert server.sent == [("1", "analysis", STATE)]


def test_socket_that_watches_again_receives_analyses(
    queue: LocalMessageQueue, server: FakeServer, socketio: SimpleNamespace
) -> None:
    for event in ("watch", "unwatch", "watch"):
        assert socketio.handlers[event]("3", {"repository_id": FOLLOWED}) == {"ok": True}
    publish(queue, 2)
    assert server.sent == [("3", "analysis", STATE)]


@pytest.mark.parametrize("data", [None, {}, {"repository_id": "5"}, {"repository_id": True}, {"repository_id": -1}])
def test_invalid_repository_id_is_refused(queue: LocalMessageQueue, socketio: SimpleNamespace, data: object) -> None:
    assert socketio.handlers["watch"]("1", data)["ok"] is False


def test_repository_that_the_user_does_not_follow_is_refused(queue: LocalMessageQueue, socketio: SimpleNamespace) -> None:
    expected = {"ok": False, "error": "There is no such repository."}
    assert socketio.handlers["unwatch"]("1", {"repository_id": 6}) == expected
