"""What a client may say over its socket about repositories: which ones it wants to hear of."""

from __future__ import annotations

from typing import Any

from flask_socketio import SocketIO

from app.core.errors import Invalid
from app.realtime.connections import Connection
from app.realtime.sockets import answer
from app.repositories.service import Repositories


def init_app(socketio: SocketIO, repositories: Repositories) -> None:
    """Who follows a repository hears of its analyses without asking; `unwatch` is for pages that do not show it."""

    def watch(connection: Connection, data: Any) -> dict[str, Any]:
        connection.muted.discard(_followed(repositories, connection, data))
        return {"ok": True}

    def unwatch(connection: Connection, data: Any) -> dict[str, Any]:
        connection.muted.add(_followed(repositories, connection, data))
        return {"ok": True}

    answer(socketio, "watch", watch)
    answer(socketio, "unwatch", unwatch)


def _followed(repositories: Repositories, connection: Connection, data: Any) -> int:
    repository_id = data.get("repository_id") if isinstance(data, dict) else None
    if type(repository_id) is not int or not 0 <= repository_id < 2**63:
        raise Invalid.field("repository_id", "repository_id has to be the id of a repository.")
    repositories.require_followed(connection.identity.user_id, repository_id)
    return repository_id
