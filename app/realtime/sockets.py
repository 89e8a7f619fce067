"""The Socket.IO server: who a socket belongs to comes from the session cookie of its handshake, and from nothing else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from flask import Flask
from flask_socketio import ConnectionRefusedError, SocketIO

from app.auth import guards
from app.core import messages
from app.core.config import Config
from app.core.errors import Problem, Unavailable
from app.core.instance import Instance
from app.core.messages import Message
from app.http.security import is_foreign
from app.realtime import transport
from app.realtime.connections import IDENTITY, Connection, Connections, Delivery, Identity
from app.realtime.handshake_guard import HandshakeGuard
from app.realtime.packets import ClientPacket
from app.realtime.queue import SocketQueue
from app.realtime.websocket import MAX_MESSAGE_BYTES
from app.server.lifecycle import Lifecycle
from app.sessions.interface import SessionInterface

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

PING_INTERVAL_SECONDS, PING_TIMEOUT_SECONDS = 25, 20  # a proxy's idle limit is 55 s and more

Answer = Callable[[Connection, Any], dict[str, Any]]


class NotificationSource(Protocol):
    """The notifications that sockets deliver."""

    def heads(self, user_ids: Sequence[int]) -> dict[int, int]:
        """Return the number of the latest notification of each user. Raises Unavailable."""

    def create_delivery(
        self,
        user_id: int,
        after: int | None,
        *,
        emit: Callable[[str, dict[str, Any]], None],
        is_congested: Callable[[], bool],
        ready_payload: dict[str, Any],
    ) -> Delivery:
        """Return what delivers the notifications of one user to one socket, in order."""


def init_app(
    app: Flask, config: Config, me: Instance, queue: SocketQueue, notifications: NotificationSource, lifecycle: Lifecycle
) -> SocketIO:
    """Builds the server, and puts it with its gate in front of the application."""
    application = app.wsgi_app
    socketio = SocketIO(
        app,
        async_mode="gevent",  # the event loop of gunicorn's worker
        client_manager=queue,
        manage_session=False,  # a copy of the session would outlive a logout
        async_handlers=False,  # what one client sends is handled in its order
        transports=list(config.socket_transports),
        ping_interval=PING_INTERVAL_SECONDS,
        ping_timeout=PING_TIMEOUT_SECONDS,
        serializer=ClientPacket,
        max_http_buffer_size=MAX_MESSAGE_BYTES,
        cors_allowed_origins=[],  # the gate decides
    )
    transport.harden(socketio.server.eio, me.instance_id)
    connections = Connections(socketio.server, config.drain_rate, queue)
    app.extensions["connections"] = socketio.server.connections = connections
    app.wsgi_app = HandshakeGuard(  # type: ignore[method-assign]
        application,
        app.wsgi_app,
        socketio.server,
        lambda: lifecycle.is_draining,
        functools.partial(_identify, app, frozenset(config.allowed_origins)),
        allowed_origins=config.allowed_origins,
        max_sockets=config.max_sockets,
        max_sockets_per_user=config.max_sockets_per_user,
        headers=[("Cache-Control", "no-store")],
    )
    still_valid = functools.partial(_still_valid, app)
    _admit(socketio, connections, queue, notifications, me, still_valid)
    queue.on("notification", connections.on_notification)
    queue.on("analysis", connections.on_analysis)
    queue.on("export", connections.on_export)
    queue.on("sessions_ended", connections.on_sessions_ended)
    _interface(app).on_ended = lambda ended: queue.publish([Message(messages.ALL_INSTANCES, "sessions_ended", asdict(ended))])
    lifecycle.count_websockets = lambda: len(socketio.server.eio.websockets)
    lifecycle.add(
        "sockets",
        background=lambda: connections.run_maintenance(notifications.heads, still_valid),
        disconnect_clients=functools.partial(connections.disconnect_clients, is_leaving=lambda: lifecycle.is_draining),
    )
    return socketio


def answer(socketio: SocketIO, event: str, handle: Answer) -> None:
    """Has an event of a client answered by what `handle` returns, or by the Problem that it raises.

    As all handlers here, past Flask-SocketIO, which would make up a request and open its session for each of them.
    """
    connections: Connections = socketio.server.connections

    def answered(sid: str, data: Any = None, *_: Any) -> dict[str, Any]:
        connection = connections[sid]
        if not connection.rate.take() or connections.is_congested(connection):
            return {"ok": False, "error": "These are too many messages. Please wait a little."}
        try:
            return handle(connection, data)
        except Problem as problem:
            return {"ok": False, "error": problem.detail}

    socketio.server.on(event, answered)


def _admit(
    socketio: SocketIO,
    connections: Connections,
    queue: SocketQueue,
    notifications: NotificationSource,
    me: Instance,
    still_valid: Callable[[list[Identity]], set[Identity]],
) -> None:
    def connect(sid: str, handshake: dict[str, Any], auth: Any = None) -> None:
        identity: Identity | None = handshake[IDENTITY]
        if identity is None:
            raise ConnectionRefusedError("unauthorized")
        after = _after(auth)
        connection = connections.open(sid, identity)
        delivery = notifications.create_delivery(
            identity.user_id,
            after,
            emit=functools.partial(connections.emit, connection),
            is_congested=functools.partial(connections.is_congested, connection),
            ready_payload={"user_id": identity.user_id, "instance_id": me.instance_id},
        )
        connections.add(connection, delivery)
        queue.wait_until_joined(messages.user_room(identity.user_id))
        # From here on it is told when its session ends; and if that has happened since the handshake, here.
        with suppress(Unavailable):
            if identity not in still_valid([identity]):
                connections.remove(sid)
        if connection not in connections:
            raise ConnectionRefusedError("unauthorized")
        socketio.server.enter_room(sid, messages.user_room(identity.user_id))
        delivery.start()  # whose first words come after the acceptance, which this handler's return sends

    socketio.server.on("connect", connect)
    socketio.server.on("disconnect", lambda sid, *_: connections.remove(sid))


def _after(auth: Any) -> int | None:
    """The last notification that a client says it has; None if it says nothing."""
    after = auth.get("after") if isinstance(auth, dict) else None
    if after is None or (isinstance(after, int) and not isinstance(after, bool) and 0 <= after < 2**63):
        return after
    raise ConnectionRefusedError("after has to be the number of a notification")


def _identify(app: Flask, allowed_origins: frozenset[str], environ: WSGIEnvironment) -> Identity | None:
    with app.request_context(environ):
        user = None if is_foreign(allowed_origins) else guards.current_user()
        key = guards.session_key()
        return Identity(user.id, user.password_version, key) if user and key else None


def _still_valid(app: Flask, identities: list[Identity]) -> set[Identity]:
    """Those whose session exists and is one of the user's present password. Raises Unavailable."""
    living = _interface(app).store.living([identity.session_key for identity in identities])
    versions = app.extensions["accounts"].password_versions(sorted({identity.user_id for identity in identities}))
    return {
        identity
        for identity in identities
        if identity.session_key in living and versions.get(identity.user_id) == identity.password_version
    }


def _interface(app: Flask) -> SessionInterface:
    assert isinstance(app.session_interface, SessionInterface)
    return app.session_interface
