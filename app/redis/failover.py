"""Connections that leave a server when another one has taken over its address.

REDIS_URL may contain a name in DNS or a proxy that leads to another server after a failover. The former primary may keep its
connections open and still answer reads; only its reply READONLY to a write shows that it has become a replica. Then one new
connection shows whether the address leads to a primary by now. If it does, all connections to the former one are closed, also
those that only read or listen. If it does not, Redis is read-only, and the connections are kept for reading.
"""

from __future__ import annotations

import _thread
import logging
import math
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from redis.connection import Connection, SSLConnection

log = logging.getLogger(__name__)

CHECK_INTERVAL_SECONDS = 1.0


class ConnectionRegistry:
    """The connections of the clients of one Redis, so that any thread can close them."""

    def __init__(self) -> None:
        self._connections: weakref.WeakSet[AbortableConnection] = weakref.WeakSet()
        self._lock = threading.Lock()

    def add(self, connection: AbortableConnection) -> None:
        with self._lock:
            self._connections.add(connection)

    def abort(self, is_affected: Callable[[Any], bool]) -> bool:
        """Return whether one of the affected connections was open."""
        with self._lock:
            connections = list(self._connections)
        return sum(connection.abort() for connection in connections if is_affected(connection)) > 0


class AbortableConnection(Connection):
    """A connection that any thread can end, and that notices when its server has become a replica."""

    def __init__(self, connections: ConnectionRegistry, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._is_aborted = False
        connections.add(self)

    def abort(self) -> bool:
        """End the connection. The code that uses it gets ConnectionError and closes it. Return whether it was open."""
        opened = self._get_socket()
        if opened is None or self._is_aborted:
            return False
        self._is_aborted = True
        # A copy of the file descriptor, because the socket belongs to the code that uses the connection.
        with suppress(OSError), socket.socket(fileno=os.dup(opened.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)
        return True

    def on_read_only(self) -> None:
        """Handle the reply READONLY. Called in the event loop too, so it must not wait."""
        raise NotImplementedError

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().read_response(*arguments, **options)
        except redis.exceptions.ReadOnlyError:
            self.on_read_only()
            raise

    def _connect(self) -> Any:
        self._is_aborted = False
        return super()._connect()  # type: ignore[no-untyped-call]


class FailoverCheck:
    """Closes the connections of a client to a former primary, if the address of the client leads to another one."""

    def __init__(self) -> None:
        self.connections = ConnectionRegistry()
        self._began_at = -math.inf

    def begin(self, connection: FailoverConnection) -> None:
        """Check soon whether the address leads elsewhere; at most once in CHECK_INTERVAL_SECONDS. Does not wait."""
        if time.monotonic() - self._began_at > CHECK_INTERVAL_SECONDS:
            self._began_at = time.monotonic()
            _thread.start_new_thread(self._run, (connection.server, connection.copy()))  # `threading` would wait for its start

    def _run(self, former: Any, new: FailoverConnection) -> None:
        began_at = time.monotonic()
        with suppress(redis.RedisError):
            if _leads_to_primary(new) and self.connections.abort(lambda one: one.server == former and one.opened_at < began_at):
                log.warning("closed the connections to a former primary of Redis: it refuses writes (READONLY)")


def _leads_to_primary(connection: FailoverConnection) -> bool:
    try:
        connection.connect()  # type: ignore[no-untyped-call]
        connection.send_command("ROLE")  # type: ignore[no-untyped-call]
        return bool(connection.read_response()[0] == b"master")
    finally:
        connection.disconnect()  # type: ignore[no-untyped-call]


class FailoverConnection(AbortableConnection):
    """A connection to the address in REDIS_URL."""

    def __init__(self, check: FailoverCheck, **options: Any) -> None:
        super().__init__(check.connections, **options)
        self.server: Any = None  # the address that it was opened to last
        self.opened_at = 0.0
        self._check = check
        self._options = options

    def copy(self) -> FailoverConnection:
        """Return another connection with the same address, which is not open."""
        return type(self)(self._check, **self._options)

    def on_read_only(self) -> None:
        self._check.begin(self)

    def _connect(self) -> Any:
        opened = super()._connect()
        self.server, self.opened_at = opened.getpeername(), time.monotonic()
        return opened


class FailoverSSLConnection(FailoverConnection, SSLConnection):
    """The same with TLS."""
