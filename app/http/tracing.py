"""Adds `X-Instance-Id` and `X-Request-Id` to each response, and logs and measures each request."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from app.core import instance, logs, metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("app.requests")

Observe = Callable[[float], None]  # seconds until the response started

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_MONITORING = ("/health", "/metrics")  # frequent and fast: they would hide slow responses to users
_SOCKETS = "/socket.io/"  # a long poll waits for messages
_TIMES = {digit: metrics.requests.labels(f"{digit}xx") for digit in "12345"}


class Tracing:
    """The outermost WSGI middleware. Not a generator, which would break the end of a WebSocket (PEP 479)."""

    def __init__(self, wsgi_app: WSGIApplication, observe: Observe) -> None:
        """`observe` receives the response time of each request, except monitoring requests and Socket.IO."""
        self.wsgi_app = wsgi_app
        self._observe = observe

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        started = time.perf_counter()
        given = environ.get("HTTP_X_REQUEST_ID", "")
        request_id = given if _VALID_ID.fullmatch(given) else os.urandom(16).hex()
        logs.request_id.set(request_id)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            self._record(environ, status, time.perf_counter() - started)
            headers = [*headers, ("X-Instance-Id", instance.current().instance_id), ("X-Request-Id", request_id)]
            return start_response(status, headers, exc_info)

        return self.wsgi_app(environ, start)

    def _record(self, environ: WSGIEnvironment, status: str, seconds: float) -> None:
        # Without the query, which may contain personal data.
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        level = logging.DEBUG if path.startswith(_MONITORING) else logging.INFO
        log.log(level, "%s %s %s %.0f ms", method, path, status[:3], seconds * 1000)
        if not path.startswith((*_MONITORING, _SOCKETS)):
            _TIMES[status[0]].observe(seconds)
            self._observe(seconds)
