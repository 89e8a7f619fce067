from __future__ import annotations

from app.analytics.exports import sockets
from app.core.messages import Message, user_room
from app.realtime.connections import CONGESTED_PACKETS, Connections
from app.realtime.message_queue import LocalMessageQueue
from tests.unit.realtime.fakes import FakeServer, connections, hosted_rooms, server

__all__ = ["connections", "hosted_rooms", "server"]


def test_export_state_goes_to_the_user_who_requested_it(connections: Connections, server: FakeServer) -> None:
    queue = LocalMessageQueue()
    sockets.init_app(queue, connections)
    state = {"id": 1, "status": "running", "progress": 50, "rows": 7}
    server.connect("2", backlog=CONGESTED_PACKETS)
    queue.publish([Message(user_room(1), "export", {"user_id": 1, "export": state})])
    assert server.sent == [("1", "export", state)]
