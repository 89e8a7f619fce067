"""Refuses requests on connections that were accepted although no file descriptor was left, except monitoring."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from app.core.errors import NoFileDescriptors, problem_details
from app.http.monitoring import is_monitoring

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REFUSAL = NoFileDescriptors()


class ReservedConnections:
    """WSGI middleware. A request that is refused needs no descriptor, and a long one would keep the reserved one from others."""

    def __init__(self, wsgi_app: WSGIApplication) -> None:
        self._wsgi_app = wsgi_app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        connection, path = environ.get("gunicorn.socket"), environ.get("PATH_INFO", "")
        if not getattr(connection, "is_on_reserve", False) or is_monitoring(path):
            return self._wsgi_app(environ, start_response)
        if path.startswith("/api/"):
            content_type, body = "application/problem+json", json.dumps(problem_details(REFUSAL)).encode()
        else:
            content_type, body = "text/plain; charset=utf-8", f"{REFUSAL.detail}\n".encode()
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), *REFUSAL.headers.items()]
        start_response("503 Service Unavailable", headers)
        return [body]
