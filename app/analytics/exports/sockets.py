"""Exports over sockets: the state of an export goes to the user who requested it."""

from typing import Any

from app.realtime.connections import Connections
from app.realtime.message_queue import MessageQueue


def init_app(queue: MessageQueue, connections: Connections) -> None:
    def on_export(data: dict[str, Any]) -> None:
        connections.emit_to(connections.of_user(data["user_id"]), "export", data["export"])

    queue.on("export", on_export)
