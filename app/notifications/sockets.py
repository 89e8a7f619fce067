"""Notifications over sockets: delivery of published ones, and `sync`, with which a client reads those that it missed."""

from typing import Any

from flask_socketio import SocketIO

from app.core.errors import Invalid
from app.notifications.service import Notifications
from app.realtime.connections import Connection, Connections
from app.realtime.message_queue import MessageQueue
from app.realtime.sockets import on_client_event


def init_app(socketio: SocketIO, queue: MessageQueue, connections: Connections, notifications: Notifications) -> None:
    def on_notification(data: dict[str, Any]) -> None:
        for connection in connections.of_user(data["user_id"]):
            connection.delivery.deliver(data["item"])

    def on_read(data: dict[str, Any]) -> None:
        connections.emit_to(connections.of_user(data["user_id"]), "read", data["read"])

    def sync(connection: Connection, data: Any) -> dict[str, Any]:
        after = data.get("after") if isinstance(data, dict) else None
        if type(after) is not int or not 0 <= after < 2**63:
            raise Invalid.field("after", "after must be the number of a notification.")
        page = notifications.after(connection.identity.user_id, after)
        return {"items": [item.payload() for item in page.items], "head": page.head, "recovered": page.recovered}

    queue.on("notification", on_notification)
    queue.on("read", on_read)
    on_client_event(socketio, "sync", sync)
