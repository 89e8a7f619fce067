"""A WebSocket that costs next to nothing while nothing happens.

simple-websocket parks greenlets to read and to write, each with a stack of its own, and keeps the request that it began with.
Here the event loop calls when there is something to read or room to write; a greenlet lives only while what came is handled.
"""

from __future__ import annotations

import base64
import hashlib
import socket
from _socket import socket as Socket  # Python's own, and not gevent's: nobody waits for it
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent

from app.realtime import frames
from app.realtime.frames import BINARY, CLOSE, PING, PONG, TEXT, Fault, FrameReader
from app.realtime.token_bucket import TokenBucket

MAX_MESSAGE_BYTES = 64 * 1024  # clients have little to say
MESSAGES_PER_SECOND, MESSAGES_AT_ONCE = 50, 200  # of one connection, of any kind
FRAMES_PER_SECOND, FRAMES_AT_ONCE = 100, 500  # pings, parts of messages and empty ones included
MAX_PONGS_WAITING = 100  # for a client that asks and does not read; a ping may go unanswered when a later one is there
SEND_SECONDS = 30.0  # for the client to take a message
HANG_UP_SECONDS = 2.0  # for the client to answer the close frame
RECEIVE_BYTES = 16 * 1024
PARTS_AT_ONCE = 64  # frames that one system call sends
READ, WRITE = 1, 2  # events of the loop
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3

Hear = Callable[[str | bytes], None]


class WebSocket:
    """The end of every connection comes by the reader: all that wants it to end shuts the socket down."""

    __slots__ = (
        "_all_of_them", "_deadline", "_frame_rate", "_frames", "_has_heard_close", "_is_closing", "_loop", "_out", "_rate",
        "_readable", "_sock", "_writable", "hear", "on_end",
    )  # fmt: skip

    hear: Hear
    on_end: Callable[[], None]

    def __init__(self, sock: Any, key: str, all_of_them: set[WebSocket]) -> None:
        """Takes over the connection of a request for an upgrade, whose own socket is closed by that, and accepts it.

        `all_of_them`: in which it is as long as it is open.
        """
        self._sock = Socket(fileno=sock.detach())
        self._sock.setblocking(False)
        self._all_of_them = all_of_them
        self._all_of_them.add(self)
        self._loop = gevent.get_hub().loop
        self._frames: FrameReader | None = FrameReader(MAX_MESSAGE_BYTES)  # None: nothing that comes is of interest
        self._rate = TokenBucket(MESSAGES_PER_SECOND, MESSAGES_AT_ONCE)
        self._frame_rate = TokenBucket(FRAMES_PER_SECOND, FRAMES_AT_ONCE)
        self._out: list[bytes | memoryview] = []  # what the client has not taken yet, frame by frame
        self._is_closing = self._has_heard_close = False
        self._deadline: Any = None  # after which it is cut off
        self._writable: Any = None
        self._readable = self._loop.io(self._sock.fileno(), READ)
        self._readable.start(self._wake)
        self._write(_acceptance(key))

    def attend(self, hear: Hear, on_end: Callable[[], None]) -> None:
        """`hear` is called with each message in turn, and may wait; `on_end` once, when the connection is gone."""
        self.hear, self.on_end = hear, on_end

    @property
    def backlog(self) -> int:
        """How many frames wait for the client to take them."""
        return len(self._out)

    def send(self, text: str) -> None:
        """Does not wait. What is sent in one turn of the event loop goes out together."""
        if not self._is_closing:
            self._write(frames.frame(TEXT, text.encode()))

    def close(self, code: int = frames.NORMAL, reason: str = "") -> None:
        """After all that has been sent. The client is given a moment to answer."""
        if not self._is_closing:
            self._is_closing = True
            self._write(frames.close_frame(code, reason))

    def cut_off(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def end_within(self, seconds: float | None) -> None:
        """Else it is cut off; None: it need not end."""
        if self._deadline:
            self._deadline.close()
            self._deadline = None
        if seconds is not None:
            self._deadline = self._loop.timer(seconds)
            self._deadline.start(self.cut_off)

    # Reading

    def _wake(self) -> None:
        self._readable.stop()  # who sends more before that is handled has to wait
        gevent.spawn(self._read)

    def _read(self) -> None:
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            self._readable.start(self._wake)
        except OSError:
            self._end()
        else:
            self._take(data) if data else self._end()

    def _take(self, data: bytes) -> None:
        try:
            for opcode, payload in self._frames.feed(data) if self._frames else ():
                if not self._frame_rate.take():
                    raise Fault(frames.POLICY_VIOLATION, "too many frames")
                self._handle(opcode, payload)
        except Fault as fault:
            self._frames = None
            self.close(fault.code, fault.reason)
        finally:
            self._readable.start(self._wake)

    def _handle(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self._answer_close(payload)
        elif opcode == PING and not self._is_closing and self.backlog < MAX_PONGS_WAITING:
            self._write(frames.frame(PONG, payload))
        elif opcode in (TEXT, BINARY) and not self._is_closing:
            if not self._rate.take():
                raise Fault(frames.POLICY_VIOLATION, "too many messages")
            self.hear(frames.text(payload) if opcode == TEXT else payload)

    def _answer_close(self, payload: bytes) -> None:
        self._frames, self._has_heard_close = None, True
        self.close(frames.close_code(payload))
        if not self._out:
            self.cut_off()

    def _end(self) -> None:
        self._is_closing = True
        self._out.clear()
        self.end_within(None)
        for watcher in (self._readable, self._writable):
            if watcher:
                watcher.close()
        self._sock.close()
        self._all_of_them.discard(self)
        on_end = self.on_end
        del self.hear, self.on_end  # by which it is held itself: the garbage collector alone would find it
        on_end()

    # Writing

    def _write(self, data: bytes) -> None:
        self._out.append(data)
        if len(self._out) == 1:
            self._loop.run_callback(self._flush)

    def _flush(self) -> None:
        """As much as the client takes now. Runs in the event loop."""
        if self._sock.fileno() < 0:  # it has ended since this was ordered
            return
        try:
            while self._out:
                self._drop(self._sock.sendmsg(self._out[:PARTS_AT_ONCE]))
        except BlockingIOError:
            self._wait_for_room()
        except OSError:
            self._out.clear()
            self.cut_off()
        else:
            self._rest()

    def _drop(self, count: int) -> None:
        """So many bytes are sent."""
        done = 0
        while count and count >= len(self._out[done]):
            count -= len(self._out[done])
            done += 1
        if done:
            del self._out[:done]
            self.end_within(None)
        if count:
            self._out[0] = memoryview(self._out[0])[count:]

    def _wait_for_room(self) -> None:
        if not self._deadline:
            self.end_within(SEND_SECONDS)
        if not self._writable:
            self._writable = self._loop.io(self._sock.fileno(), WRITE)
            self._writable.start(self._flush)

    def _rest(self) -> None:
        if self._writable:
            self._writable.close()
            self._writable = None
        if self._has_heard_close:
            self.cut_off()
        elif self._is_closing:
            self.end_within(HANG_UP_SECONDS)


def _acceptance(key: str) -> bytes:
    accept = base64.b64encode(hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()).decode()
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}"]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
