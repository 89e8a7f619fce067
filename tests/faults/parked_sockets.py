"""The fault: each socket has a greenlet that waits, with what it was called with, as those of simple-websocket had."""

from typing import Any

import gevent

from app import create_app
from app.core import config
from app.realtime.websocket import WebSocket

attend = WebSocket.attend


def wait(_: bytes) -> None:
    gevent.sleep(3600)


def attend_and_wait(self: WebSocket, *arguments: Any) -> None:
    attend(self, *arguments)
    gevent.spawn(wait, bytes(range(256)) * 64)


WebSocket.attend = attend_and_wait  # type: ignore[assignment]

app = create_app(config.from_environment_or_exit())
