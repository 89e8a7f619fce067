"""One span for each HTTP request, from its arrival until its response begins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask, request, request_started
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from app.core import logs
from app.http.monitoring import is_monitoring
from app.telemetry.traces import Traces

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_SOCKETS = "/socket.io/"
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}  # others are of clients that choose any text


class RequestSpans:
    """The outermost WSGI middleware, if traces are on. Not a generator, which would break the end of a WebSocket."""

    def __init__(self, wsgi_app: WSGIApplication, traces: Traces) -> None:
        self.wsgi_app = wsgi_app
        self._traces = traces

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if is_monitoring(path) or path.startswith(_SOCKETS):  # the former is frequent, the latter waits for messages
            return self.wsgi_app(environ, start_response)
        method = _known(environ["REQUEST_METHOD"])
        with self._traces.request(method, environ.get("HTTP_TRACEPARENT", ""), {"http.request.method": method}) as span:

            def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
                span.set_attribute("http.response.status_code", int(status[:3]))
                span.set_attribute("request_id", logs.request_id.get() or "")
                if status.startswith("5"):
                    span.set_status(StatusCode.ERROR)
                return start_response(status, headers, exc_info)

            return self.wsgi_app(environ, start)


def trace_requests(app: Flask, traces: Traces) -> None:
    """Trace the requests of an application whose other middleware is complete."""
    app.wsgi_app = RequestSpans(app.wsgi_app, traces)  # type: ignore[method-assign]
    request_started.connect(_name_span, app)


def _name_span(_: Flask, **__: Any) -> None:
    """Name the span by the route, because a path contains IDs and secret tokens."""
    span = trace.get_current_span()
    if span.is_recording() and request.url_rule:
        span.update_name(f"{_known(request.method)} {request.url_rule.rule}")
        span.set_attribute("http.route", request.url_rule.rule)


def _known(method: str) -> str:
    return method if method in _METHODS else "_OTHER"
