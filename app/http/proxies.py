"""`X-Forwarded-*` headers of the trusted reverse proxies (TRUSTED_PROXIES)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from werkzeug.http import parse_list_header
from werkzeug.middleware.proxy_fix import ProxyFix

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class TrustedProxies:
    """Werkzeug's ProxyFix for proxies that overwrite the scheme and host headers.

    ProxyFix expects one value per proxy, but most proxies replace these two headers, so two proxies may leave one value.
    """

    def __init__(self, wsgi_app: WSGIApplication, hops: int) -> None:
        self._wsgi_app = wsgi_app
        self._hops = hops

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        proto = min(self._hops, _count(environ.get("HTTP_X_FORWARDED_PROTO")))
        host = min(self._hops, _count(environ.get("HTTP_X_FORWARDED_HOST")))
        return ProxyFix(self._wsgi_app, x_for=self._hops, x_proto=proto, x_host=host)(environ, start_response)


def _count(header: str | None) -> int:
    return len(parse_list_header(header or ""))
