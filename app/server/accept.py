"""Accepts connections, also when no file descriptor is left: a few are held in reserve, so that health checks are answered."""

import os
from collections.abc import Callable
from typing import Any

import gevent
from gevent.server import StreamServer

from app.core.descriptors import NONE_LEFT, STDERR, shortage
from app.server.connection import OpenConnections

RESERVED_DESCRIPTORS = 50  # connections that are served at the same time during a shortage
PAUSE_SECONDS = 0.1  # between attempts to accept when the reserve is used up, too


class DescriptorReserve:
    """Descriptors that are held open, so that closing one makes room for a connection."""

    def __init__(self) -> None:
        self._held: list[int] = []
        self.refill()

    @property
    def is_used(self) -> bool:
        return len(self._held) < RESERVED_DESCRIPTORS

    def release(self) -> bool:
        """Make room for one connection. Return False if the reserve is used up."""
        if self._held:
            os.close(self._held.pop())
            return True
        return False

    def refill(self) -> None:
        """Take back what is free, before anything else can. Records a shortage if that is not enough."""
        try:
            while self.is_used:
                self._held.append(os.dup(STDERR))
        except OSError as error:
            if error.errno not in NONE_LEFT:
                raise
            shortage.record(error)


class ReservingServer(StreamServer):  # type: ignore[misc] # gevent has no type hints
    """gevent's server, which uses the reserve when no descriptor is left. gevent itself would print a traceback every second."""

    def __init__(
        self,
        reserve: DescriptorReserve,
        connections: OpenConnections,
        listener: Any,
        *,
        handle: Callable[..., None],
        spawn: Any,
    ) -> None:
        """`connections`: those that this server has accepted. Idle and slow ones are closed to make room."""
        super().__init__(listener, handle=handle, spawn=spawn)
        self._reserve = reserve
        self._connections = connections

    def do_read(self) -> Any:
        """Return the accepted socket and its address, or None."""
        while True:
            try:
                return super().do_read()
            except OSError as error:
                if error.errno not in NONE_LEFT:
                    raise
                shortage.record(error)
            self._connections.evict()
            if not self._reserve.release():
                self._connections.close_idle()
                self._pause()
                return None

    def _pause(self) -> None:
        """Otherwise the event loop would call `do_read` without end while a connection waits."""
        self.stop_accepting()
        gevent.spawn_later(PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if self.started:
            self.start_accepting()
