"""The Socket.IO server. The user of a socket is determined by the session cookie of its handshake and by nothing else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from flask import Flask
from flask_socketio import ConnectionRefusedError, SocketIO
from sqlalchemy import Connection as SqlConnection

from app.core.config import Config
from app.core.errors import Problem
from app.core.instance import Instance
from app.core.messages import ALL_INSTANCES, Message, user_room
from app.realtime import transport
from app.realtime.connections import (
    CLIENT_EVENTS_BURST,
    CLIENT_EVENTS_PER_SECOND,
    IDENTITY,
    RATE,
    SOCKET_DRAINED,
    Connection,
    Connections,
    Delivery,
    Identity,
)
from app.realtime.custom_events import CUSTOM_EVENT
from app.realtime.drained_sockets import DrainedSockets
from app.realtime.handshake_guard import HandshakeGuard
from app.realtime.identification import Identification
from app.realtime.message_queue import MessageQueue
from app.realtime.openings import Openings
from app.realtime.packets import ClientPacket
from app.realtime.token_bucket import TokenBucket
from app.realtime.websocket import MAX_MESSAGE_BYTES
from app.server.lifecycle import Lifecycle
from app.sessions.interface import EndedSessions, SessionInterface
from app.sessions.store import user_id_of_key

PING_INTERVAL_SECONDS, PING_TIMEOUT_SECONDS = 25, 20  # below the idle timeout of proxies, which is 55 s and more

TOO_MANY_MESSAGES = "Too many messages. Wait a moment and try again."

ClientEventHandler = Callable[[Connection, Any], dict[str, Any]]  # takes the data of the event, returns the acknowledgement


class NotificationSource(Protocol):
    """The notifications that sockets deliver."""

    def heads(self, user_ids: Sequence[int]) -> dict[int, int]:
        """Return the number of the latest notification of each user. Raises Unavailable."""

    def read_missed(self, connection: SqlConnection, asked: Sequence[tuple[int, int | None]]) -> Sequence[Any]:
        """Return what a delivery starts with, for each of several pairs of a user ID and the number that the client has."""

    def create_delivery(
        self,
        user_id: int,
        after: int | None,
        *,
        emit: Callable[[str, dict[str, Any]], None],
        is_congested: Callable[[], bool],
        ready_payload: dict[str, Any],
    ) -> Delivery:
        """Create the delivery of one user's notifications to one socket, in order."""


def init_app(
    app: Flask,
    config: Config,
    me: Instance,
    queue: MessageQueue,
    notifications: NotificationSource,
    lifecycle: Lifecycle,
    mean_sockets: Callable[[], float | None],
) -> SocketIO:
    """Build the Socket.IO server and put it, behind its guard, in front of the application. `mean_sockets` returns the mean of
    the ready instances, or None if it is unknown."""
    wsgi_app = app.wsgi_app
    interface, accounts = app.session_interface, app.extensions["accounts"]
    assert isinstance(interface, SessionInterface)
    cookie_name = interface.get_cookie_name(app)
    openings = Openings(app.extensions["database"], interface.store, accounts.read_password_versions, notifications.read_missed)
    identification = Identification(interface, cookie_name, config.allowed_origins, openings, accounts.password_versions)
    socketio = _create_server(app, config, queue)
    transport.apply_limits(socketio.server.eio, me.instance_id)
    connections = Connections(socketio.server, config.drain_rate, queue)
    app.extensions["connections"] = socketio.server.connections = connections
    drained = DrainedSockets()
    queue.on(SOCKET_DRAINED, lambda data: drained.add(data["user_id"]))
    app.wsgi_app = HandshakeGuard(  # type: ignore[method-assign]
        wsgi_app,
        app.wsgi_app,
        socketio.server,
        is_draining=lambda: lifecycle.is_draining,
        identify=identification.identify,
        read_session_keys=identification.session_keys,
        allowed_origins=config.allowed_origins,
        max_sockets=config.max_sockets,
        max_sockets_per_user=config.max_sockets_per_user,
        count_drained=drained.count,
        accepts_shed_sockets=lambda: (mean := mean_sockets()) is None or connections.staying < mean,
        headers=[("Cache-Control", "no-store")],
    )
    _handle_connections(socketio, connections, queue, notifications, me, openings)
    _end_sockets_with_sessions(interface, connections, queue)
    queue.on(CUSTOM_EVENT, functools.partial(_emit_custom_event, socketio))
    lifecycle.count_websockets = lambda: len(socketio.server.eio.websockets)
    lifecycle.add(
        "sockets",
        background=lambda: connections.run_maintenance(notifications.heads, identification.valid_identities),
        disconnect_clients=functools.partial(connections.disconnect_clients, is_draining=lambda: lifecycle.is_draining),
    )
    return socketio


def on_client_event(socketio: SocketIO, event: str, handler: ClientEventHandler) -> None:
    """Acknowledge an event of a client with the result of the handler, or with the Problem that it raises.

    Like all handlers here it is registered with python-socketio, because Flask-SocketIO would create a request and open its
    session for each event.
    """
    connections: Connections = socketio.server.connections

    def acknowledge(sid: str, data: Any = None, *_: Any) -> dict[str, Any]:
        connection = connections[sid]
        if not connection.rate.take() or connections.is_congested(connection):
            return {"ok": False, "error": TOO_MANY_MESSAGES}
        try:
            return handler(connection, data)
        except Problem as problem:
            return {"ok": False, "error": problem.detail}

    socketio.server.on(event, acknowledge)


def _create_server(app: Flask, config: Config, queue: MessageQueue) -> SocketIO:
    return SocketIO(
        app,
        async_mode="gevent",  # the event loop of gunicorn's worker
        client_manager=queue,
        manage_session=False,  # a copy of the session would outlive a logout
        async_handlers=False,  # the events of one client are handled in order
        transports=list(config.socket_transports),
        ping_interval=PING_INTERVAL_SECONDS,
        ping_timeout=PING_TIMEOUT_SECONDS,
        serializer=ClientPacket,
        max_http_buffer_size=MAX_MESSAGE_BYTES,
        cors_allowed_origins=[],  # the guard adds the headers
    )


def _handle_connections(
    socketio: SocketIO,
    connections: Connections,
    queue: MessageQueue,
    notifications: NotificationSource,
    me: Instance,
    openings: Openings,
) -> None:
    def connect(sid: str, handshake: dict[str, Any], auth: Any = None) -> None:
        try:
            accept(sid, handshake, auth)
        except BaseException:
            connections.remove(sid)
            socketio.server.manager.disconnect(sid, "/", ignore_queue=True)  # Socket.IO does so only after a refusal
            raise

    def accept(sid: str, handshake: dict[str, Any], auth: Any) -> None:
        identity: Identity | None = handshake[IDENTITY]
        if identity is None:
            raise ConnectionRefusedError("unauthorized")
        # It belongs to the Engine.IO connection: a client that disconnects and connects over it again does not get a new one.
        rate = handshake.setdefault(RATE, TokenBucket(CLIENT_EVENTS_PER_SECOND, CLIENT_EVENTS_BURST))
        if not rate.take():
            raise ConnectionRefusedError(TOO_MANY_MESSAGES)
        room, after = user_room(identity.user_id), _parse_after(auth)
        connection = connections.create(sid, identity)
        connection.rate = rate
        connection.hands_over = isinstance(auth, dict) and auth.get("hands_over") is True
        delivery = notifications.create_delivery(
            identity.user_id,
            after,
            emit=functools.partial(connections.emit, connection),
            is_congested=functools.partial(connections.is_congested, connection),
            ready_payload={"user_id": identity.user_id, "instance_id": me.instance_id},
        )
        connections.add(connection, delivery)
        queue.wait_until_joined(room)
        # From here on a message reports the end of the session. Check whether it ended between the handshake and now.
        opening = openings.read(identity, after)
        if not opening.is_valid:
            connections.remove(sid)
        if connection not in connections or connection.engine_sid not in socketio.server.environ:  # the client has left
            raise ConnectionRefusedError("unauthorized")
        socketio.server.enter_room(sid, room)
        delivery.start(opening.missed)  # its greenlet runs after this handler has returned and Socket.IO has accepted the client

    socketio.server.on("connect", connect)
    socketio.server.on("disconnect", lambda sid, *_: connections.remove(sid))


def _end_sockets_with_sessions(interface: SessionInterface, connections: Connections, queue: MessageQueue) -> None:
    queue.on("sessions_ended", connections.on_sessions_ended)
    interface.on_ended.append(lambda ended: queue.publish([Message(_room_of(ended), "sessions_ended", asdict(ended))]))


def _room_of(ended: EndedSessions) -> str:
    """Return the room of the user, if it is known: on a Redis Cluster, another master may carry the room of all instances."""
    user_id = ended.user_id or user_id_of_key(ended.key or "")
    return user_room(user_id) if user_id else ALL_INSTANCES


def _emit_custom_event(socketio: SocketIO, data: dict[str, Any]) -> None:
    """Emit an event from another process to the sockets of this instance that are in its room."""
    server = socketio.server
    socketio_room = None if data["room"] == ALL_INSTANCES else data["room"]
    not_accepted_yet = server.manager.pending_connect.get("/", [])  # in Socket.IO's room of all sockets, perhaps refused later
    server.emit(data["event"], tuple(data["arguments"]), to=socketio_room, skip_sid=list(not_accepted_yet), ignore_queue=True)


def _parse_after(auth: Any) -> int | None:
    """Return the number of the last notification that the client has, or None if it sent none."""
    after = auth.get("after") if isinstance(auth, dict) else None
    if after is None or (type(after) is int and 0 <= after < 2**63):
        return after
    raise ConnectionRefusedError("after must be the number of a notification")
