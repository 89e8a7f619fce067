"""Each response says which instance made it and for which request, and each request leaves one line in the log."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from app import instance, logs, metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("app.requests")

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Tracing:
    """WSGI middleware around everything. A plain callable: a generator would break the end of a WebSocket (PEP 479)."""

    def __init__(self, wsgi_app: WSGIApplication) -> None:
        self.wsgi_app = wsgi_app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        started = time.perf_counter()
        given = environ.get("HTTP_X_REQUEST_ID", "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        logs.request_id.set(request_id)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            _log(environ, status, time.perf_counter() - started)
            headers = [*headers, ("X-Instance-Id", instance.current().instance_id), ("X-Request-Id", request_id)]
            return start_response(status, headers, exc_info)

        return self.wsgi_app(environ, start)


def _log(environ: WSGIEnvironment, status: str, seconds: float) -> None:
    # The query is left out: it may hold what does not belong in a log.
    method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
    level = logging.DEBUG if path.startswith(("/health", "/metrics")) else logging.INFO
    metrics.requests.labels(status[:1] + "xx").observe(seconds)
    log.log(level, "%s %s %s %.0f ms", method, path, status[:3], seconds * 1000)
