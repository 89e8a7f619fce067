"""Who may open a socket: decided with the handshake, before anything is kept for it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import socketio
from gevent.lock import Semaphore

from app.core import metrics
from app.core.errors import Problem
from app.realtime.connections import IDENTITY, OPENED_AT, Identity
from app.realtime.packets import is_engine_payload
from app.realtime.transport import MAX_PACKETS_PER_POST
from app.realtime.websocket import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PATH = "/socket.io/"
RETRY_AFTER_SECONDS = 5
IDENTIFIED_AT_ONCE = 2
QUEUE_SECONDS = 2.0  # for a handshake to wait for its turn
TOO_LARGE = "413 Content Too Large"
LEAVING = "This instance sends its sockets elsewhere."
WEBSOCKET_KEY_LENGTH, WEBSOCKET_VERSION = 24, "13"  # RFC 6455: 16 bytes in Base64
ANONYMOUS_SHARE = 10  # at most one in ten connections may be one that is going to be refused

Identify = Callable[["WSGIEnvironment"], Identity | None]  # raises Problem where that can't be told now


class Handshakes(dict[str, dict[str, Any]]):
    """Socket.IO's table of connections. It keeps no more of a request than will be asked for, and counts those of each user."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: Counter[int | None] = Counter()

    def __setitem__(self, engine_sid: str, environ: dict[str, Any]) -> None:
        self._counts[_user_id(environ[IDENTITY])] += 1
        super().__setitem__(engine_sid, {name: environ[name] for name in (IDENTITY, OPENED_AT)})

    def __delitem__(self, engine_sid: str) -> None:
        user_id = _user_id(self[engine_sid][IDENTITY])
        super().__delitem__(engine_sid)
        self._counts[user_id] -= 1
        if not self._counts[user_id]:
            del self._counts[user_id]

    def count(self, identity: Identity | None) -> int:
        """Connections of the same user; or of nobody."""
        return self._counts[_user_id(identity)]


class HandshakeGuard:
    """WSGI middleware in front of Socket.IO's own, past which all other requests go: it would make a class for each of them.

    A handshake without a valid session goes on to be refused in words, as `connect_error`. One that can't be judged or served now
    is answered 503, after which clients try again.
    """

    def __init__(
        self,
        wsgi_app: WSGIApplication,
        sockets: WSGIApplication,
        server: socketio.Server,
        is_leaving: Callable[[], bool],
        identify: Identify,
        *,
        allowed_origins: Iterable[str],
        max_sockets: int,
        max_sockets_per_user: int,
        headers: Iterable[tuple[str, str]],
    ) -> None:
        """`headers`: of every response."""
        self._wsgi_app = wsgi_app
        self._sockets = sockets
        self._handshakes = server.environ = Handshakes()
        self._engine = server.eio
        self._is_leaving = is_leaving
        # After the end of another instance hundreds come at once; connections to the database have to be left for requests.
        self._identifying = Semaphore(IDENTIFIED_AT_ONCE)
        self._identify = identify
        self._allowed_origins = frozenset(allowed_origins)
        self._max_sockets = max_sockets
        self._headers = list(headers)
        self._polled: set[str] = set()  # connections that a request waits for
        self._max_sockets_per_user = max_sockets_per_user

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not environ.get("PATH_INFO", "").startswith(PATH):
            return self._wsgi_app(environ, start_response)
        start = self._with_headers(environ, start_response)
        if not _sid(environ):
            if refusal := self._refusal(environ):
                return _answer(start, "503 Service Unavailable", refusal)
        elif environ["REQUEST_METHOD"] == "POST" and (fault := _fault_of_post(environ)):
            return _answer(start, *fault)
        if environ.get("HTTP_UPGRADE", "").lower() == "websocket" and (refusal := self._fault_of_upgrade(environ)):
            return _answer(start, "400 Bad Request", refusal)
        return self._poll(environ, start) if _is_poll(environ) else self._sockets(environ, start)

    def _poll(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """One request at a time waits for the packets of a connection; more would only take the places of others."""
        engine_sid = _sid(environ)
        if engine_sid in self._polled:
            return _answer(start_response, "400 Bad Request", "Another request is waiting already.")
        self._polled.add(engine_sid)
        try:
            return self._sockets(environ, start_response)
        finally:
            self._polled.discard(engine_sid)

    def _refusal(self, environ: WSGIEnvironment) -> str | None:
        """Why this handshake can't be taken now; otherwise the environ says whose it is."""
        if self._is_leaving():
            return LEAVING
        if not self._identifying.acquire(timeout=QUEUE_SECONDS):
            return "Too many sockets want to be opened here at once."
        try:
            identity = self._identify(environ)
        except Problem as problem:
            return problem.detail
        finally:
            self._identifying.release()
        # From here on nothing waits, so that two who come at once can't both have the last place.
        if self._is_leaving():  # since it was asked
            return LEAVING
        if len(self._handshakes) >= self._max_sockets:
            return "This instance has as many sockets as it may have."
        if self._handshakes.count(identity) >= self._limit(identity):
            return "You have as many sockets here as you may have."
        environ[IDENTITY], environ[OPENED_AT] = identity, time.monotonic()
        return None

    def _fault_of_upgrade(self, environ: WSGIEnvironment) -> str | None:
        key, version = environ.get("HTTP_SEC_WEBSOCKET_KEY", ""), environ.get("HTTP_SEC_WEBSOCKET_VERSION", "")
        wanted = {word.strip() for word in environ.get("HTTP_CONNECTION", "").lower().split(",")}
        if "upgrade" not in wanted or len(key) != WEBSOCKET_KEY_LENGTH or version != WEBSOCKET_VERSION:
            return "This is no handshake of a WebSocket."
        socket = self._engine.sockets.get(_sid(environ))
        return "This connection is being upgraded already." if socket and socket.upgrading else None

    def _limit(self, identity: Identity | None) -> int:
        return self._max_sockets_per_user if identity else max(1, self._max_sockets // ANONYMOUS_SHARE)

    def _with_headers(self, environ: WSGIEnvironment, start_response: StartResponse) -> StartResponse:
        headers = [*self._headers]
        if (origin := environ.get("HTTP_ORIGIN")) in self._allowed_origins:
            headers += [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true"), ("Vary", "Origin")]

        def start(status: str, own: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*own, *headers], exc_info)

        return start


def _sid(environ: WSGIEnvironment) -> str:
    """Of the connection that a request belongs to; empty for a handshake."""
    sids: list[str] = parse_qs(environ.get("QUERY_STRING", "")).get("sid", [""])
    return sids[0]


def _user_id(identity: Identity | None) -> int | None:
    return identity.user_id if identity else None


def _is_poll(environ: WSGIEnvironment) -> bool:
    return environ["REQUEST_METHOD"] == "GET" and bool(_sid(environ)) and "HTTP_UPGRADE" not in environ


def _fault_of_post(environ: WSGIEnvironment) -> tuple[str, str] | None:
    """Status and reason. Engine.IO would drop what is too much or broken, and answer that all is well."""
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > MAX_MESSAGE_BYTES:
        return TOO_LARGE, f"A message has at most {MAX_MESSAGE_BYTES} bytes."
    body = environ["wsgi.input"].read(int(length))
    environ["wsgi.input"] = BytesIO(body)
    if body.count(b"\x1e") >= MAX_PACKETS_PER_POST:
        return TOO_LARGE, f"At most {MAX_PACKETS_PER_POST} messages may be sent at once."
    return None if is_engine_payload(body) else ("400 Bad Request", "These are no messages of Engine.IO.")


def _answer(start_response: StartResponse, status: str, text: str) -> list[bytes]:
    if status.startswith("503"):
        metrics.sockets_refused.inc()
    body = text.encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    if status.startswith("503"):
        headers.append(("Retry-After", str(RETRY_AFTER_SECONDS)))
    start_response(status, headers)
    return [body]
