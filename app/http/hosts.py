"""Refuses requests for foreign host names (TRUSTED_HOSTS), which protects against DNS rebinding."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from app.core.config_parsers import normalized_host
from app.core.logs import ThrottledLog
from app.http.monitoring import is_monitoring

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = ThrottledLog(logging.getLogger(__name__))

REFUSAL = b"This server does not serve this host. TRUSTED_HOSTS lists the hosts that it serves.\n"


class TrustedHosts:
    """WSGI middleware in front of Socket.IO and Flask. Werkzeug's check knows no IPv6 address and comes after Socket.IO."""

    def __init__(self, wsgi_app: WSGIApplication, hosts: Iterable[str]) -> None:
        self._wsgi_app = wsgi_app
        self._hosts = frozenset(hosts)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        host, path = environ.get("HTTP_HOST"), environ.get("PATH_INFO", "")
        # Only old programs send no Host, and DNS rebinding needs a browser. Probes use the address of the instance.
        if host is None or self._is_trusted(host) or is_monitoring(path):
            return self._wsgi_app(environ, start_response)
        log.info("host", "refused a request for the host %.200s, which TRUSTED_HOSTS does not contain", host)
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(REFUSAL)))]
        start_response("400 Bad Request", headers)
        return [REFUSAL]

    def _is_trusted(self, host: str) -> bool:
        return _without_port(host) in self._hosts


@lru_cache(maxsize=256)
def _without_port(header: str) -> str:
    """Cached, because nearly all requests are for a few hosts."""
    return normalized_host(re.sub(r":[0-9]*$", "", header) if "]" in header or header.count(":") == 1 else header)
