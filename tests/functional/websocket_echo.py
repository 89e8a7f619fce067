"""A WebSocket echo server made of app/realtime/frames and websocket, with the limits raised: python -m ... PORT"""

from __future__ import annotations

import sys
from typing import Any

from gevent.server import StreamServer

from app.realtime import frames, websocket
from app.realtime.websocket import WebSocket

UNLIMITED = {"MAX_MESSAGE_BYTES": 64 * 1024 * 1024}
UNLIMITED |= dict.fromkeys(("MESSAGES_PER_SECOND", "MESSAGE_BURST", "FRAMES_PER_SECOND", "FRAME_BURST"), 10_000_000)


def serve(sock: Any, _: Any) -> None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        received = sock.recv(1)
        if not received:
            return
        head += received
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:-2])
    key = next(value for name, value in headers.items() if name.lower() == "sec-websocket-key")
    opened = WebSocket(sock, key, set())

    def echo(message: str | bytes) -> None:
        if isinstance(message, str):
            opened.send(message)
        elif not opened._is_closing:
            opened._write(frames.encode_frame(frames.BINARY, message))

    opened.set_handlers(echo, lambda: None)


if __name__ == "__main__":
    vars(websocket).update(UNLIMITED)
    StreamServer(("127.0.0.1", int(sys.argv[1])), serve).serve_forever()
