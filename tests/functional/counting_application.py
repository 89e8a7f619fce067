"""The application with `/counts`, which reports the size of every table that clients can grow."""

from __future__ import annotations

import gc
import os
from typing import Any

import gevent

from app import create_app
from app.core import config, logs
from app.realtime import websocket
from app.realtime.handshake_guard import HandshakeGuard

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


def process() -> dict[str, int]:
    """Numbers that are not 0 in an idle instance. The request that asks has a connection and a greenlet."""
    greenlets = [one for one in gc.get_objects() if isinstance(one, gevent.Greenlet) and not one.dead]
    return {
        "greenlets": len(greenlets),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "connections": app.extensions["lifecycle"].count_connections(),
    }


@app.get("/counts")
def counts() -> dict[str, Any]:
    gc.collect()
    return {"tables": tables(), "process": process()}
