"""Headers that some clients and proxies send twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_SINGLE = ("HTTP_ORIGIN", "HTTP_SEC_FETCH_SITE")


class EqualHeaders:
    """WSGI middleware: of several equal values, joined by commas, one is kept. Different values stay as they are."""

    def __init__(self, wsgi_app: WSGIApplication) -> None:
        self._wsgi_app = wsgi_app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        for name in _SINGLE:
            if "," in environ.get(name, "") and len(values := {value.strip() for value in environ[name].split(",")}) == 1:
                environ[name] = values.pop()
        return self._wsgi_app(environ, start_response)
