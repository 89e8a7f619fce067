"""What clients of sockets say: the bytes of a handshake and of a message."""

from __future__ import annotations

import base64
import os

TEXT = 0x81  # first byte of a frame, RFC 6455


def upgrade(port: int, cookie: str) -> bytes:
    """The request that a WebSocket of Socket.IO begins with."""
    lines = [
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        f"Cookie: {cookie}",
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def message(text: bytes) -> bytes:
    """A short one, with a mask of zeros, which leaves the text as it is."""
    return bytes([TEXT, 0x80 | len(text), 0, 0, 0, 0]) + text
