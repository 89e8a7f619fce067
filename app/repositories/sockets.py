"""Analyses over sockets: their state goes to the followers of the repository, except to pages that sent `unwatch`."""

from typing import Any
from weakref import WeakKeyDictionary

from flask_socketio import SocketIO

from app.core.errors import Invalid
from app.realtime.connections import Connection, Connections
from app.realtime.message_queue import MessageQueue
from app.realtime.sockets import on_client_event
from app.repositories.service import Repositories


def init_app(socketio: SocketIO, queue: MessageQueue, connections: Connections, repositories: Repositories) -> None:
    muted: WeakKeyDictionary[Connection, set[int]] = WeakKeyDictionary()  # IDs of repositories

    def on_analysis(data: dict[str, Any]) -> None:
        repository_id = data["analysis"]["repository_id"]
        watching = [one for one in connections.of_user(data["user_id"]) if repository_id not in muted.get(one, ())]
        connections.emit_to(watching, "analysis", data["analysis"])

    def watch(connection: Connection, data: Any) -> dict[str, Any]:
        muted.get(connection, set()).discard(_followed_id(repositories, connection, data))
        return {"ok": True}

    def unwatch(connection: Connection, data: Any) -> dict[str, Any]:
        muted.setdefault(connection, set()).add(_followed_id(repositories, connection, data))
        return {"ok": True}

    queue.on("analysis", on_analysis)
    on_client_event(socketio, "watch", watch)
    on_client_event(socketio, "unwatch", unwatch)


def _followed_id(repositories: Repositories, connection: Connection, data: Any) -> int:
    """Return the ID of the repository in an event. Raises Invalid, or NotFound if the user does not follow it."""
    repository_id = data.get("repository_id") if isinstance(data, dict) else None
    if type(repository_id) is not int or not 0 <= repository_id < 2**63:
        raise Invalid.field("repository_id", "repository_id must be the ID of a repository.")
    repositories.require_followed(connection.identity.user_id, repository_id)
    return repository_id
