"""Security headers of every response, and protection against cross-site request forgery (CSRF)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request, session
from werkzeug.wsgi import get_host

from app.core.config import Config
from app.core.errors import Problem
from app.sessions.session import Session

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "object-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
STRICT_TRANSPORT_SECURITY = "max-age=31536000; includeSubDomains"


def init_app(app: Flask, config: Config) -> None:
    allowed = frozenset(config.allowed_origins)

    @app.before_request
    def reject_cross_site_requests() -> None:
        # Browsers do not add a token by themselves, so another site cannot make them use it.
        if request.method not in SAFE_METHODS and bearer_token() is None and is_cross_site(request.environ, allowed):
            log.info("rejected cross-site request: %s from %s", request.path, request.remote_addr)
            raise Problem("This request comes from another site.", status=403)

    @app.after_request
    def forbid_caching(response: Response) -> Response:
        if _is_private():
            response.headers["Cache-Control"] = "no-store"
        return response


class SecurityHeaders:
    """WSGI middleware that adds the security headers a response does not set itself."""

    def __init__(self, wsgi_app: WSGIApplication, config: Config) -> None:
        self._wsgi_app = wsgi_app
        headers = {**HEADERS, "Strict-Transport-Security": STRICT_TRANSPORT_SECURITY} if config.is_production else HEADERS
        self._headers = [(name.lower(), (name, value)) for name, value in headers.items()]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            present = {name.lower() for name, _ in headers}
            return start_response(
                status, [*headers, *(header for name, header in self._headers if name not in present)], exc_info
            )

        return self._wsgi_app(environ, start)


def bearer_token() -> str | None:
    """Return the token of a request to the API: `Authorization: Bearer …`. Other paths and other schemes have none."""
    if (header := request.environ.get("HTTP_AUTHORIZATION")) is None:
        return None
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and request.path.startswith("/api/") else None


def is_cross_site(environ: WSGIEnvironment, allowed: frozenset[str]) -> bool:
    """Return whether a browser made this request for another site. `allowed`: further accepted origins.

    This replaces CSRF tokens, see the analysis for Go's CrossOriginProtection: https://words.filippo.io/csrf/. A client that
    sends neither header is not a browser and can't be tricked into sending a user's cookies.
    """
    origin, site = environ.get("HTTP_ORIGIN"), environ.get("HTTP_SEC_FETCH_SITE")
    if origin in allowed:
        return False
    if site is not None and site not in ("same-origin", "none"):
        return True
    if origin is None:
        return False
    scheme, _, authority = origin.lower().partition("://")
    # Behind a proxy that does not forward the scheme, that of the environ is wrong; then Sec-Fetch-Site decides.
    same_scheme = scheme == environ["wsgi.url_scheme"] or site == "same-origin"
    own = _without_default_port(get_host(environ).lower())
    return not (own and same_scheme and _without_default_port(authority) == own)


def _without_default_port(authority: str) -> str:
    return re.sub(r":(80|443)$", "", authority)


def _is_private() -> bool:
    """Return whether the response accessed the session, sets a cookie, or comes from the API."""
    current = session._get_current_object()  # type: ignore[attr-defined]
    return request.path.startswith("/api/") or (isinstance(current, Session) and (current.is_loaded or current.is_ended))
