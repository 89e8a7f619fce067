"""After an account opts out, its open pages stop recording, on all devices."""

from typing import Any

from app.realtime.connections import Connections
from app.realtime.message_queue import MessageQueue


def init_app(queue: MessageQueue, connections: Connections) -> None:
    def on_analytics_off(message: dict[str, Any]) -> None:
        for connection in connections.of_user(message["user_id"]):
            connections.emit(connection, "analytics_off", {})

    queue.on("analytics_off", on_analytics_off)
