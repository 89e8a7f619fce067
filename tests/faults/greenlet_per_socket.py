"""The fault: each socket keeps a waiting greenlet, as simple-websocket does."""

from typing import Any

import gevent

from app import create_app
from app.core import config
from app.realtime.websocket import WebSocket

set_handlers = WebSocket.set_handlers


def wait(_: bytes) -> None:
    gevent.sleep(3600)


def set_handlers_and_wait(self: WebSocket, *arguments: Any) -> None:
    set_handlers(self, *arguments)
    gevent.spawn(wait, bytes(range(256)) * 64)


WebSocket.set_handlers = set_handlers_and_wait  # type: ignore[assignment]

app = create_app(config.from_environment_or_exit())
