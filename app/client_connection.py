"""A connection of a client, as a stop sees it: does it wait, or is it being served?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import SHUT_RDWR
from typing import Any

import gevent

from app.listening import is_readable

TRANSFER_SECONDS = 30.0  # for the next part of a body to come, or of an answer to be taken; else the place would be held for ever
NEW_SECONDS = 0.5  # within which the first request should come; a proxy sends it at once


class ClientConnection:
    def __init__(self, socket: Any, greenlet: gevent.Greenlet, patience: float) -> None:
        """`patience`: seconds that it may wait for a request."""
        self.request: Any = None  # gunicorn's, while it is being served
        self._socket = socket
        self._greenlet = greenlet
        self._patience = patience
        self._opened_at = time.monotonic()
        self._has_asked = False
        self._wait: _Wait | None = None

    @contextmanager
    def serving(self, request: Any) -> Iterator[None]:
        self.request, self._has_asked = request, True
        self._socket.settimeout(TRANSFER_SECONDS)
        try:
            yield
        finally:
            self.request = None

    def wait_for_request(self) -> gevent.Timeout:
        return _Wait(self, self._patience)

    @property
    def is_asking(self) -> bool:
        """A request is being served. The one that a WebSocket began with is none any more."""
        return self.request is not None and not self.is_websocket

    @property
    def is_websocket(self) -> bool:
        headers = self.request.headers if self.request and self.request.method == "GET" else []
        return any(name == "UPGRADE" and value.lower() == "websocket" for name, value in headers)

    def hang_up(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(SHUT_RDWR)

    @property
    def is_idle(self) -> bool:
        """It waits for a request, and nothing has come of one. A new connection is given a moment."""
        is_new = not self._has_asked and time.monotonic() - self._opened_at < NEW_SECONDS
        return self._wait is not None and not is_new and not is_readable(self._socket)

    def end(self) -> None:
        """As if the time to wait were over, unless a request comes before the event loop gets to it."""
        gevent.get_hub().loop.run_callback(self._end)

    def _end(self) -> None:
        if self._wait is not None and not is_readable(self._socket):
            self._greenlet.throw(self._wait)


class _Wait(gevent.Timeout):  # type: ignore[misc] # gevent has no type hints
    """The time that a connection may be idle. gunicorn waits for the next request inside of it."""

    def __init__(self, connection: ClientConnection, seconds: float) -> None:
        super().__init__(seconds, False)
        self._connection = connection

    def __enter__(self) -> _Wait:
        self._connection._wait = self
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> Any:
        self._connection._wait = None
        return super().__exit__(*exception)
