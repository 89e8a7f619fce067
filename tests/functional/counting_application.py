"""The application with `/counts`, which reports the size of every table that clients can grow."""

from __future__ import annotations

import gc
import os
from typing import Any
from urllib.parse import urlsplit

import engineio
import gevent
import psutil

from app import create_app
from app.core import config, logs
from app.realtime import websocket
from app.realtime.connections import Connection
from app.realtime.handshake_guard import HandshakeGuard
from app.realtime.websocket import WebSocket

EngineSocket = engineio.server.socket.Socket

settings = config.from_environment_or_exit()
logs.configure(settings.log_format, settings.log_level)
app = create_app(settings)
websocket.CLOSE_TIMEOUT_SECONDS = 0.2  # clients that do not answer the close frame keep their places that long


def guard() -> HandshakeGuard:
    application: Any = app.wsgi_app
    while not isinstance(application, HandshakeGuard):
        (application,) = (value for name, value in vars(application).items() if name.endswith("app"))
    return application


def tables() -> dict[str, int]:
    """Without clients, each of them is 0."""
    server = app.extensions["socketio"].server
    engine, handshakes, manager, connections = server.eio, server.environ, server.manager, app.extensions["connections"]
    return {
        "engine.sockets": len(engine.sockets),
        "engine.websockets": len(engine.websockets),
        "engine.pings": len(engine.pings),
        "handshakes": len(handshakes),
        "handshakes.places": handshakes.places,
        "handshakes.counts": handshakes._counts.total(),
        "polls": len(guard()._polling),
        "connections": len(connections),
        "connections.by_user": len(connections._by_user),
        "connections.by_session": len(connections._by_session),
        "server.binary_packets": len(server._binary_packet),
        "manager.rooms": len(manager.rooms),
        "manager.rooms_of": len(manager._rooms_of),
        "manager.callbacks": len(manager.callbacks),
        "manager.pending": len(manager.pending_connect) + len(manager.pending_disconnect),
        "subscriptions.members": manager._subscriptions._members.total() - 1,  # without the room of all instances
        "subscriptions.waiters": len(manager._subscriptions._waiters),
    }


def remains() -> dict[str, int]:
    """0 some time after the last client: rooms are left after 5 s, and Engine.IO goes through a copy of its table for 20 s."""
    queue = app.extensions["socketio"].server.manager
    return {
        "subscriptions.state": len(queue._subscriptions._state) - 1,
        "objects.Connection": alive(Connection),
        "objects.WebSocket": alive(WebSocket),
        "objects.EngineSocket": max(0, alive(EngineSocket) - 1),  # the monitor of Engine.IO keeps the last one in a variable
    }


def alive(kind: type[Any]) -> int:
    return sum(type(one) is kind for one in gc.get_objects())


def process() -> dict[str, int]:
    """Numbers that are not 0 in an idle instance. The request that asks has a connection and a greenlet."""
    greenlets = [one for one in gc.get_objects() if isinstance(one, gevent.Greenlet) and not one.dead]
    return {
        "greenlets": len(greenlets),
        "descriptors": len(os.listdir("/proc/self/fd")) - pooled_connections(),  # noqa: PTH208
        "connections": app.extensions["lifecycle"].count_connections(),
    }


def pooled_connections() -> int:
    """Connections to Redis and the database, whose number the pools limit."""
    stores = {urlsplit(url).port for url in (settings.redis_url or "", settings.database_url)}
    return sum(bool(one.raddr) and one.raddr.port in stores for one in psutil.Process().net_connections("tcp"))


@app.get("/counts")
def counts() -> dict[str, Any]:
    gc.collect()
    return {"tables": tables(), "remains": remains(), "process": process()}
