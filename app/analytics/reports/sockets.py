"""The live counter: what is stored anywhere is told to administrators who look at analytics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from flask_socketio import SocketIO

from app.auth.service import Accounts
from app.core.errors import Problem
from app.core.messages import ANALYTICS_ROOM
from app.realtime.connections import Connection, Connections
from app.realtime.queue import SocketQueue
from app.realtime.sockets import on_client_event

PAUSE_SECONDS = 0.5  # between two words on what was stored


class Tally:
    """Adds up what comes faster than it may be told."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._count = 0
        self._is_awaited = False

    def on_stored(self, message: dict[str, Any]) -> None:
        self._count += message["count"]
        if not self._is_awaited:
            self._is_awaited = True
            gevent.spawn_later(PAUSE_SECONDS, self._tell_all)

    def _tell_all(self) -> None:
        count, self._count, self._is_awaited = self._count, 0, False
        self._tell(count)


def init_app(socketio: SocketIO, queue: SocketQueue, connections: Connections, accounts: Accounts) -> None:
    """An instance that somebody watches hears of all that is stored, and tells its own sockets only."""

    def watch(connection: Connection, _: Any) -> dict[str, Any]:
        user = accounts.get(connection.identity.user_id)
        if user is None or not user.is_admin:
            raise Problem("This is for administrators.", status=403)
        connections.join(connection, ANALYTICS_ROOM)
        queue.wait_until_joined(ANALYTICS_ROOM)
        socketio.server.enter_room(connection.sid, ANALYTICS_ROOM)
        return {"ok": True}

    def tell(count: int) -> None:
        socketio.server.emit("events_stored", {"count": count}, to=ANALYTICS_ROOM, ignore_queue=True)

    on_client_event(socketio, "watch_analytics", watch)
    queue.on("events_stored", Tally(tell).on_stored)
