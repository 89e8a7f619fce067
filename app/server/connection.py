"""The open client connections of a worker, and which of them are idle."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import SHUT_RDWR
from typing import Any

import gevent

from app.server.listener import is_readable

TRANSFER_SECONDS = 30.0  # for the next part of a request body to arrive or of a response to be taken
NEW_SECONDS = 0.5  # within which the first request should arrive; a proxy sends it at once


class ClientConnection:
    def __init__(self, socket: Any) -> None:
        self.request: Any = None  # while it is served: a PlainRequest or gunicorn's
        self.socket = socket
        self._opened_at = time.monotonic()
        self._has_sent_request = False
        self._waiting_since: float | None = None

    @contextmanager
    def serving(self, request: Any) -> Iterator[None]:
        self.request, self._has_sent_request = request, True
        self.socket.settimeout(TRANSFER_SECONDS)
        yield
        self.request = None  # not after an error, whose log line names it

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for a request without a timeout; the worker closes idle connections."""
        self.socket.settimeout(None)
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since = None

    def is_idle(self, seconds: float = 0.0) -> bool:
        """Whether it has waited that long for a request and nothing has arrived. A new connection is not idle at once."""
        if self._waiting_since is None or time.monotonic() - self._waiting_since < seconds:
            return False
        is_new = not self._has_sent_request and time.monotonic() - self._opened_at < NEW_SECONDS
        return not is_new and not is_readable(self.socket)

    def close_if_idle(self) -> None:
        """End the wait as if the client had closed, unless a request arrives before the event loop runs this."""
        gevent.get_hub().loop.run_callback(self._shut_down_if_idle)

    def _shut_down_if_idle(self) -> None:
        if self._waiting_since is not None and not is_readable(self.socket):
            with suppress(OSError):
                self.socket.shutdown(SHUT_RDWR)


class OpenConnections:
    """The connections of a worker, oldest first. Above `limit`, each new one evicts an idle one: a full worker would accept no
    connection, not even a health check."""

    def __init__(self, limit: int) -> None:
        self.accepted = 0
        self._limit = limit
        self._connections: dict[ClientConnection, None] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, socket: Any) -> ClientConnection:
        self.accepted += 1
        connection = ClientConnection(socket)
        self._connections[connection] = None
        if len(self._connections) > self._limit:
            self._evict_idle_connection()
        return connection

    def remove(self, connection: ClientConnection) -> None:
        del self._connections[connection]

    def serving(self) -> list[ClientConnection]:
        return [connection for connection in self._connections if connection.request is not None]

    def close_idle(self, seconds: float = 0.0) -> None:
        """Close all that have been idle for that long."""
        for connection in self._connections:
            if connection.is_idle(seconds):
                connection.close_if_idle()

    def force_close(self) -> None:
        """Let each response that has not begun say `Connection: close`."""
        for connection in self.serving():
            connection.request.force_close()

    def _evict_idle_connection(self) -> None:
        for connection in self._connections:
            if connection.is_idle():
                connection.close_if_idle()
                return
