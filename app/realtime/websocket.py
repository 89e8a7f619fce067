"""A WebSocket that needs no greenlet while it is idle.

simple-websocket and python-engineio keep three or four waiting greenlets per connection, each with its own stack, and the
request that opened it. Here the event loop calls back when the socket is readable or writable, and a greenlet runs only while a
message is handled. The benefit is memory: 6 to 7 kB per idle socket instead of 68 kB. `python -m bench.sockets` measures it.
"""

from __future__ import annotations

import base64
import hashlib
import socket
from _socket import socket as Socket  # not gevent's class, since no greenlet waits for this socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent

from app.realtime import frames
from app.realtime.frames import BINARY, CLOSE, PING, PONG, TEXT, FrameReader, WebSocketError
from app.realtime.token_bucket import TokenBucket

MAX_MESSAGE_BYTES = 64 * 1024  # clients send only small events
MESSAGES_PER_SECOND, MESSAGE_BURST = 50, 200  # per connection
FRAMES_PER_SECOND, FRAME_BURST = 100, 500  # per connection, including control frames and fragments
MAX_QUEUED_PONGS = 100  # for a client that does not read; RFC 6455 requires an answer to the latest ping only
SEND_TIMEOUT_SECONDS = 30.0  # for the client to receive one message
CLOSE_TIMEOUT_SECONDS = 2.0  # for the client to answer the close frame
RECEIVE_BYTES = 16 * 1024
MAX_FRAMES_PER_SEND = 64  # in one system call
READ, WRITE = 1, 2  # event masks of libev
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3

MessageHandler = Callable[[str | bytes], None]


class WebSocket:
    """An accepted connection. It ends in one place, the reader: everything else that ends it shuts the socket down."""

    __slots__ = (
        "_deadline", "_frame_bucket", "_frames", "_has_received_close", "_is_closing", "_loop", "_message_bucket",
        "_open_websockets", "_outgoing", "_readable", "_sock", "_writable", "on_close", "on_message",
    )  # fmt: skip

    on_message: MessageHandler
    on_close: Callable[[], None]

    def __init__(self, sock: Any, key: str, open_websockets: set[WebSocket]) -> None:
        """Take the connection of an upgrade request over from its socket object, and accept it.

        `open_websockets` contains this object until the connection has ended.
        """
        self._sock = Socket(fileno=sock.detach())
        self._sock.setblocking(False)
        self._open_websockets = open_websockets
        self._open_websockets.add(self)
        self._loop = gevent.get_hub().loop
        self._frames: FrameReader | None = FrameReader(MAX_MESSAGE_BYTES)  # None: received data is ignored
        self._message_bucket = TokenBucket(MESSAGES_PER_SECOND, MESSAGE_BURST)
        self._frame_bucket = TokenBucket(FRAMES_PER_SECOND, FRAME_BURST)
        self._outgoing: list[bytes | memoryview] = []  # frames that the socket buffer had no room for yet
        self._is_closing = self._has_received_close = False
        self._deadline: Any = None  # a timer that aborts the connection
        self._writable: Any = None
        self._readable = self._loop.io(self._sock.fileno(), READ)
        self._readable.start(self._on_readable)
        self._write(_accept_response(key))

    def set_handlers(self, on_message: MessageHandler, on_close: Callable[[], None]) -> None:
        """`on_message` is called with one message at a time and may wait; `on_close` is called once, at the end."""
        self.on_message, self.on_close = on_message, on_close

    @property
    def backlog(self) -> int:
        """The number of frames that wait to be sent."""
        return len(self._outgoing)

    def send(self, text: str) -> None:
        """Queue a message. Those of one event loop iteration are sent together."""
        if not self._is_closing:
            self._write(frames.encode_frame(TEXT, text.encode()))

    def close(self, code: int = frames.NORMAL, reason: str = "") -> None:
        """Send a close frame after all queued messages, and give the client CLOSE_TIMEOUT_SECONDS to answer it."""
        if not self._is_closing:
            self._is_closing = True
            self._write(frames.encode_close(code, reason))

    def abort(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _set_deadline(self, seconds: float | None) -> None:
        """Abort the connection after that time; None cancels this."""
        if self._deadline:
            self._deadline.close()
            self._deadline = None
        if seconds is not None:
            self._deadline = self._loop.timer(seconds)
            self._deadline.start(self.abort)

    # Reading

    def _on_readable(self) -> None:
        self._readable.stop()  # until this is handled: back-pressure for clients that send faster
        gevent.spawn(self._read)

    def _read(self) -> None:
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            self._readable.start(self._on_readable)
        except OSError:
            self._end()
        else:
            self._handle(data) if data else self._end()

    def _handle(self, data: bytes) -> None:
        try:
            for opcode, payload in self._frames.feed(data) if self._frames else ():
                if not self._frame_bucket.take():
                    raise WebSocketError(frames.POLICY_VIOLATION, "too many frames")
                self._handle_frame(opcode, payload)
        except WebSocketError as error:
            self._frames = None
            self.close(error.code, error.reason)
        finally:
            self._readable.start(self._on_readable)

    def _handle_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self._answer_close(payload)
        elif opcode == PING and not self._is_closing and self.backlog < MAX_QUEUED_PONGS:
            self._write(frames.encode_frame(PONG, payload))
        elif opcode in (TEXT, BINARY) and not self._is_closing:
            if not self._message_bucket.take():
                raise WebSocketError(frames.POLICY_VIOLATION, "too many messages")
            self.on_message(frames.decode_text(payload) if opcode == TEXT else payload)

    def _answer_close(self, payload: bytes) -> None:
        self._frames, self._has_received_close = None, True
        self.close(frames.parse_close_code(payload))
        if not self._outgoing:
            self.abort()

    def _end(self) -> None:
        self._is_closing = True
        self._outgoing.clear()
        self._set_deadline(None)
        for watcher in (self._readable, self._writable):
            if watcher:
                watcher.close()
        self._sock.close()
        self._open_websockets.discard(self)
        on_close = self.on_close
        del self.on_message, self.on_close  # they refer back to this object; without the cycle it is freed at once
        on_close()

    # Writing

    def _write(self, data: bytes) -> None:
        self._outgoing.append(data)
        if len(self._outgoing) == 1:
            self._loop.run_callback(self._flush)

    def _flush(self) -> None:
        """Send as much as the socket buffer takes. Runs in the event loop's own greenlet."""
        if self._sock.fileno() < 0:  # ended since this was scheduled
            return
        try:
            while self._outgoing:
                self._remove_sent(self._sock.sendmsg(self._outgoing[:MAX_FRAMES_PER_SEND]))
        except BlockingIOError:
            self._wait_until_writable()
        except OSError:
            self._outgoing.clear()
            self.abort()
        else:
            self._on_flushed()

    def _remove_sent(self, count: int) -> None:
        done = 0
        while count and count >= len(self._outgoing[done]):
            count -= len(self._outgoing[done])
            done += 1
        if done:
            del self._outgoing[:done]
            self._set_deadline(None)
        if count:
            self._outgoing[0] = memoryview(self._outgoing[0])[count:]

    def _wait_until_writable(self) -> None:
        if not self._deadline:
            self._set_deadline(SEND_TIMEOUT_SECONDS)
        if not self._writable:
            self._writable = self._loop.io(self._sock.fileno(), WRITE)
            self._writable.start(self._flush)

    def _on_flushed(self) -> None:
        if self._writable:
            self._writable.close()
            self._writable = None
        if self._has_received_close:
            self.abort()
        elif self._is_closing:
            self._set_deadline(CLOSE_TIMEOUT_SECONDS)


def _accept_response(key: str) -> bytes:
    accept = base64.b64encode(hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()).decode()
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}"]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
