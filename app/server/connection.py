"""The open client connections of a worker: the time that each may take, and which of them are closed first."""

import fcntl
import logging
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socket import SHUT_RDWR
from typing import Any

import gevent

from app.server.listener import is_readable

log = logging.getLogger(__name__)

# As in Apache's mod_reqtimeout: a client may take this time to send a body or to receive a response. Transferred bytes extend it.
TRANSFER_SECONDS = 20.0
MIN_BYTES_PER_SECOND = 500
CHECK_SECONDS = 1.0  # between looks at how much of a response a client has acknowledged
DRAIN_SECONDS, DRAIN_BYTES = 2.0, 256 * 1024  # for the rest of a body that the application did not read
NEW_SECONDS = 0.5  # within which the first request should arrive; a proxy sends it at once


class ClientConnection:
    """One client's connection. gunicorn reads and writes through it, so that slow clients are disconnected."""

    def __init__(self, socket: Any) -> None:
        self.request: Any = None  # while it is served: a PlainRequest or gunicorn's
        self.drained_request: Any = None  # while the unread rest of its body is received
        self.socket = socket
        self.is_on_reserve = False  # accepted although no file descriptor was left: serves only monitoring
        self._opened_at = time.monotonic()
        self._has_sent_request = False
        self._waiting_since: float | None = None
        self._head_deadline: float | None = None  # while the rest of a request's head is received
        self._transfer_began: float | None = None  # while a transfer waits for the client
        self._seconds_left = TRANSFER_SECONDS
        self._is_closing = False

    @contextmanager
    def serving(self, request: Any) -> Iterator[None]:
        self.request, self._has_sent_request = request, True
        self._seconds_left = TRANSFER_SECONDS
        yield
        self.request = None  # not after an error, whose log line names it

    @contextmanager
    def draining(self, request: Any) -> Iterator[None]:
        """Receive the unread rest of a body for a limited time. At its end, the connection has to be closed."""
        self.drained_request = request
        with gevent.Timeout(DRAIN_SECONDS, False):
            yield
        self.drained_request = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for a request without a timeout; the worker closes idle connections."""
        self.socket.settimeout(None)
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since = None

    @contextmanager
    def receiving_head(self, seconds: float) -> Iterator[None]:
        """Receive the rest of a head for a limited time. It has begun, although the kernel may have nothing left to read."""
        self.socket.settimeout(None)
        self._head_deadline = time.monotonic() + seconds
        try:
            with gevent.Timeout(seconds, False):
                yield
        finally:
            self._head_deadline = None

    @property
    def is_receiving_head(self) -> bool:
        return self._head_deadline is not None

    # The parts of a socket that gunicorn and the WebSocket use

    def recv(self, size: int) -> bytes:
        if self._waiting_since is not None or self.is_receiving_head:
            return self.socket.recv(size)  # type: ignore[no-any-return]
        self.socket.settimeout(max(0.001, self._seconds_left))
        began = self._transfer_began = time.monotonic()
        try:
            data: bytes = self.socket.recv(size)
        finally:
            self._transfer_began = None
        self._count_transfer(time.monotonic() - began, len(data))
        return data

    def send(self, data: bytes | memoryview) -> int:
        queued: int | None = None
        self.socket.settimeout(CHECK_SECONDS)
        while True:
            began = self._transfer_began = time.monotonic()
            try:
                sent: int = self.socket.send(data)
            except TimeoutError:
                # The socket becomes writable only when a large part of its buffer is free. This shows a slow client's progress.
                before, queued = queued, _unacknowledged_bytes(self.socket)
                self._count_transfer(time.monotonic() - began, before - queued if before is not None else 0)
            else:
                self._count_transfer(0, sent)
                return sent
            finally:
                self._transfer_began = None

    def sendall(self, data: bytes | memoryview) -> None:
        unsent = memoryview(data)
        while unsent:
            unsent = unsent[self.send(unsent) :]

    def detach(self) -> int:
        return self.socket.detach()  # type: ignore[no-any-return]

    def _count_transfer(self, seconds: float, transferred: int) -> None:
        """Raises TimeoutError if the client has been too slow."""
        self._seconds_left = min(TRANSFER_SECONDS, self._seconds_left - seconds + transferred / MIN_BYTES_PER_SECOND)
        if self._seconds_left <= 0:
            raise TimeoutError("the client is too slow")

    # Closing

    def is_idle(self, seconds: float = 0.0) -> bool:
        """Whether it has waited that long for a request and nothing has arrived. A new connection is not idle at once."""
        if self._is_closing or self._waiting_since is None or time.monotonic() - self._waiting_since < seconds:
            return False
        is_new = not self._has_sent_request and time.monotonic() - self._opened_at < NEW_SECONDS
        return not is_new and not is_readable(self.socket)

    def seconds_left(self) -> float | None:
        """Return how long the client may still take for a head or a transfer, or None if the connection waits for neither."""
        if self._is_closing:
            return None
        if self._head_deadline is not None:
            return self._head_deadline - time.monotonic()
        if self._transfer_began is None:
            return None
        return self._seconds_left - (time.monotonic() - self._transfer_began)

    def close_if_idle(self) -> None:
        """End the wait as if the client had closed, unless a request arrives before the event loop runs this."""
        self._is_closing = True
        gevent.get_hub().loop.run_callback(self._shut_down_if_idle)

    def _shut_down_if_idle(self) -> None:
        if self._waiting_since is not None and not is_readable(self.socket):
            self.shut_down()
        else:
            self._is_closing = False

    def shut_down(self) -> None:
        """End a transfer or a wait as if the client had closed the connection."""
        self._is_closing = True
        with suppress(OSError):
            self.socket.shutdown(SHUT_RDWR)


def _unacknowledged_bytes(socket: Any) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4)))
    return int(count)


class OpenConnections:
    """The connections of a worker, oldest first. Above `limit`, each new one evicts an idle one, or else the one whose client has
    made the least progress with a transfer: a full worker would accept no connection, not even a health check.

    `count_websockets` returns the number of connections that have become WebSockets. They are not listed here, but need room."""

    def __init__(self, limit: int, count_websockets: Callable[[], int]) -> None:
        self.accepted = 0
        self._limit = limit
        self._count_websockets = count_websockets
        self._evicted = 0  # connections of slow clients, not logged yet
        self._timed_out: list[str] = []  # the requests of clients that exceeded their time, not logged yet
        self._connections: dict[ClientConnection, None] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, socket: Any) -> ClientConnection:
        self.accepted += 1
        connection = ClientConnection(socket)
        self._connections[connection] = None
        if len(self._connections) + self._count_websockets() > self._limit:
            self._evicted += self.evict()
        return connection

    def remove(self, connection: ClientConnection) -> None:
        del self._connections[connection]

    def serving(self) -> list[ClientConnection]:
        return [connection for connection in self._connections if connection.request is not None]

    def receiving_heads(self) -> int:
        return sum(connection.is_receiving_head for connection in self._connections)

    def close_idle(self, seconds: float = 0.0) -> None:
        """Close all that have been idle for that long."""
        for connection in self._connections:
            if connection.is_idle(seconds):
                connection.close_if_idle()

    def force_close(self) -> None:
        """Let each response that has not begun say `Connection: close`."""
        for connection in self.serving():
            connection.request.force_close()

    def close_draining(self) -> list[Any]:
        """Close those that receive the unread rest of a body. Return the requests."""
        found = [connection for connection in self._connections if connection.drained_request]
        requests = [connection.drained_request for connection in found]
        for connection in found:
            connection.drained_request = None
            connection.shut_down()
        return requests

    def evict(self) -> bool:
        """Close an idle connection, or else that of the slowest client. Return whether it was the latter."""
        for connection in self._connections:
            if connection.is_idle():
                connection.close_if_idle()
                return False
        left = [(seconds, connection) for connection in self._connections if (seconds := connection.seconds_left()) is not None]
        if left:
            min(left, key=lambda pair: pair[0])[1].shut_down()
        return bool(left)

    def add_timeout(self, request: Any) -> None:
        """Note for the log that the connection of this request is closed because its client is too slow."""
        self._timed_out.append(f"{request.method} {request.path}")

    def log_slow_clients(self) -> None:
        """Write how many connections of slow clients were closed since the last call. One line for each could fill the log."""
        if self._evicted:
            log.warning("all %d connections were in use: closed %d of slow clients", self._limit, self._evicted)
        if self._timed_out:
            log.info("closed %d connections of slow clients, the last one during %s", len(self._timed_out), self._timed_out[-1])
        self._evicted, self._timed_out = 0, []
