"""What a client may ask for over its socket: to read what it may have missed."""

from __future__ import annotations

from typing import Any

from flask_socketio import SocketIO

from app.core.errors import Invalid
from app.notifications.service import Notifications
from app.realtime.connections import Connection
from app.realtime.sockets import answer


def init_app(socketio: SocketIO, notifications: Notifications) -> None:
    def sync(connection: Connection, data: Any) -> dict[str, Any]:
        after = data.get("after") if isinstance(data, dict) else None
        if type(after) is not int or not 0 <= after < 2**63:
            raise Invalid.field("after", "after has to be the number of a notification.")
        page = notifications.after(connection.identity.user_id, after)
        return {"items": [item.payload() for item in page.items], "head": page.head, "recovered": page.recovered}

    answer(socketio, "sync", sync)
