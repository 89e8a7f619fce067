"""The live counter of stored events on the analytics page."""

from collections.abc import Callable
from typing import Any

import gevent
from flask_socketio import SocketIO

from app.auth.service import Accounts
from app.core.errors import Problem
from app.core.messages import ANALYTICS_ROOM
from app.realtime.connections import Connection, Connections
from app.realtime.message_queue import MessageQueue
from app.realtime.sockets import on_client_event

EMIT_INTERVAL_SECONDS = 0.5


class LiveCounter:
    """Adds up the numbers of stored events, and emits the sum at most once per EMIT_INTERVAL_SECONDS."""

    def __init__(self, emit: Callable[[int], None]) -> None:
        self._emit = emit
        self._count = 0
        self._is_scheduled = False

    def on_stored(self, message: dict[str, Any]) -> None:
        self._count += message["count"]
        if not self._is_scheduled:
            self._is_scheduled = True
            gevent.spawn_later(EMIT_INTERVAL_SECONDS, self._emit_sum)

    def _emit_sum(self) -> None:
        count, self._count, self._is_scheduled = self._count, 0, False
        self._emit(count)


def init_app(socketio: SocketIO, queue: MessageQueue, connections: Connections, accounts: Accounts) -> None:
    """Each instance with a watching administrator subscribes to the room, and emits only to its own sockets."""

    def watch(connection: Connection, _: Any) -> dict[str, Any]:
        user = accounts.get(connection.identity.user_id)
        if user is None or not user.is_admin:
            raise Problem("This is for administrators.", status=403)
        connections.join(connection, ANALYTICS_ROOM)
        queue.wait_until_joined(ANALYTICS_ROOM)
        socketio.server.enter_room(connection.sid, ANALYTICS_ROOM)
        return {"ok": True}

    def emit(count: int) -> None:
        socketio.server.emit("events_stored", {"count": count}, to=ANALYTICS_ROOM, ignore_queue=True)

    on_client_event(socketio, "watch_analytics", watch)
    queue.on("events_stored", LiveCounter(emit).on_stored)
