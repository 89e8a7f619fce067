"""The bytes of a WebSocket handshake and of a WebSocket message."""

import base64
import os

from harness.sockets import HANDSHAKE

TEXT = 0x81  # first byte of a frame, RFC 6455


def upgrade(port: int, cookie: str) -> bytes:
    """Return the upgrade request of a Socket.IO WebSocket."""
    lines = [
        f"GET {HANDSHAKE}websocket HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        f"Cookie: {cookie}",
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def message(text: bytes) -> bytes:
    """Return a frame with up to 125 bytes. The mask is zero, so that the text is not changed."""
    return bytes([TEXT, 0x80 | len(text), 0, 0, 0, 0]) + text
