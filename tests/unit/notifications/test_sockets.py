from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from app.core.messages import Message, user_room
from app.notifications import sockets
from app.notifications.service import Notifications
from app.realtime.connections import Connections
from app.realtime.message_queue import LocalMessageQueue
from tests.unit.realtime.fakes import calls, connections, hosted_rooms, server, socketio

__all__ = ["connections", "hosted_rooms", "server", "socketio"]


def test_notification_goes_to_all_sockets_of_its_user(connections: Connections, socketio: SimpleNamespace) -> None:
    queue = LocalMessageQueue()
    sockets.init_app(socketio, queue, connections, cast(Notifications, None))
    queue.publish([Message(user_room(1), "notification", {"user_id": 1, "item": {"seq": 7}})])
    assert [calls(connection) for connection in connections] == [[7], [7], []]


def test_all_sockets_of_a_user_learn_what_was_read(connections: Connections, socketio: SimpleNamespace) -> None:
    queue, sent = LocalMessageQueue(), []
    connections.emit_to = lambda to, event, data: sent.append((list(to), event, data))  # type: ignore[method-assign, assignment]
    sockets.init_app(socketio, queue, connections, cast(Notifications, None))
    read = {"up_to": 3, "also_read": [5]}
    queue.publish([Message(user_room(1), "read", {"user_id": 1, "read": read})])
    assert sent == [(connections.of_user(1), "read", read)]
