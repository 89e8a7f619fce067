"""A connection of a client, as a stop sees it: does it wait, or is it being served?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import SHUT_RDWR
from typing import Any

import gevent

from app.server.listener import is_readable

TRANSFER_SECONDS = 30.0  # for the next part of a body to come, or of an answer to be taken; else the place would be held for ever
NEW_SECONDS = 0.5  # within which the first request should come; a proxy sends it at once


class ClientConnection:
    def __init__(self, socket: Any) -> None:
        self.request: Any = None  # gunicorn's or a plain one, while it is being served
        self._socket = socket
        self._opened_at = time.monotonic()
        self._has_asked = False
        self._waits_since: float | None = None

    @contextmanager
    def serving(self, request: Any) -> Iterator[None]:
        self.request, self._has_asked = request, True
        self._socket.settimeout(TRANSFER_SECONDS)
        yield
        self.request = None  # after an error it stays known, for the log

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For a request; for how long is decided by whoever ends idle connections."""
        self._socket.settimeout(None)
        self._waits_since = time.monotonic()
        try:
            yield
        finally:
            self._waits_since = None

    @property
    def is_asking(self) -> bool:
        """A request is being served."""
        return self.request is not None

    @property
    def is_idle(self) -> bool:
        """It waits for a request, and nothing has come of one. A new connection is given a moment."""
        is_new = not self._has_asked and time.monotonic() - self._opened_at < NEW_SECONDS
        return self._waits_since is not None and not is_new and not is_readable(self._socket)

    def is_idle_for(self, seconds: float) -> bool:
        return self._waits_since is not None and time.monotonic() - self._waits_since > seconds and self.is_idle

    def end(self) -> None:
        """As if the client had ended it, unless a request comes before the event loop gets to it."""
        gevent.get_hub().loop.run_callback(self._end)

    def _end(self) -> None:
        if self._waits_since is not None and not is_readable(self._socket):
            with suppress(OSError):
                self._socket.shutdown(SHUT_RDWR)
