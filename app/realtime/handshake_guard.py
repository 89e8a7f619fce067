"""The WSGI middleware in front of Socket.IO. It decides about a handshake before anything is stored for the connection."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import socketio

from app.core import metrics
from app.core.batch_loader import TooBusy
from app.core.errors import Problem
from app.core.logs import ThrottledLog
from app.realtime.connections import IDENTITY, OPENED_AT, OPENED_BY, REBALANCE, Identity
from app.realtime.packets import is_valid_payload
from app.realtime.transport import MAX_PACKETS_PER_POST
from app.realtime.websocket import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = ThrottledLog(logging.getLogger(__name__))

PATH = "/socket.io/"
RETRY_AFTER_SECONDS = 5
BAD_REQUEST, TOO_LARGE, UNAVAILABLE = "400 Bad Request", "413 Content Too Large", "503 Service Unavailable"
UPGRADE_REQUIRED = "426 Upgrade Required"
DRAINING = "This instance is draining. Connect again to reach another one."
TOO_MANY_FOR_SHED = "This instance has no fewer sockets than the others. Connect again to reach one that has."
WEBSOCKET_KEY_BYTES, WEBSOCKET_VERSION = 16, "13"  # RFC 6455
ANONYMOUS_SHARE = 10  # at most one in ten connections may be one that is about to be refused

Identify = Callable[["WSGIEnvironment"], Identity | None]  # raises Problem if a store is unavailable
ReadSessionKeys = Callable[["WSGIEnvironment"], tuple[str, ...]]  # store keys of the signed session cookies; asks no store


class HandshakeTable(dict[str, dict[str, Any]]):
    """Socket.IO's table of handshakes. It keeps only the parts that are used, and counts the connections of each user."""

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[str, int | None] = {}  # user IDs; a connection leaves the table when it ends, and its place later
        self._counts: Counter[int | None] = Counter()

    def __setitem__(self, engine_sid: str, environ: dict[str, Any]) -> None:
        user_id = self._places[engine_sid] = _user_id(environ[IDENTITY])
        self._counts[user_id] += 1
        super().__setitem__(engine_sid, {name: environ[name] for name in (IDENTITY, OPENED_AT, OPENED_BY)})

    def release_place(self, engine_sid: str) -> None:
        if engine_sid not in self._places:
            return
        user_id = self._places.pop(engine_sid)
        self._counts[user_id] -= 1
        if not self._counts[user_id]:
            del self._counts[user_id]

    @property
    def places(self) -> int:
        """The number of places that connections take."""
        return len(self._places)

    def count(self, identity: Identity | None) -> int:
        """Return the number of places of the same user, or of all anonymous clients."""
        return self._counts[_user_id(identity)]


class HandshakeGuard:
    """Passes requests of sockets to Socket.IO if they are acceptable, and all other requests to the application.

    Socket.IO's own middleware builds a class for each request, so it sees only those of sockets. A handshake without a valid
    session goes on, because only Socket.IO can refuse it with a `connect_error`. A handshake that cannot be checked or served
    now gets a 503, after which clients retry.
    """

    def __init__(
        self,
        wsgi_app: WSGIApplication,
        socketio_app: WSGIApplication,
        server: socketio.Server,
        is_draining: Callable[[], bool],
        identify: Identify,
        read_session_keys: ReadSessionKeys,
        *,
        allowed_origins: Iterable[str],
        max_sockets: int,
        max_sockets_per_user: int,
        count_drained: Callable[[int], int],
        accepts_shed_sockets: Callable[[], bool],
        headers: Iterable[tuple[str, str]],
    ) -> None:
        """`headers` are added to every response of Socket.IO. `count_drained` returns how many sockets of a user, given by ID,
        have received `draining` lately. `accepts_shed_sockets` returns whether this instance has fewer sockets than the mean."""
        self._wsgi_app = wsgi_app
        self._socketio_app = socketio_app
        self._handshakes = server.environ = HandshakeTable()
        self._engine = server.eio
        self._engine.release_place = self._handshakes.release_place
        self._is_draining = is_draining
        self._identify = identify
        self._read_session_keys = read_session_keys
        self._allowed_origins = frozenset(allowed_origins)
        self._max_sockets = max_sockets
        self._max_sockets_per_user = max_sockets_per_user
        self._count_drained = count_drained
        self._accepts_shed_sockets = accepts_shed_sockets
        self._headers = list(headers)
        self._polling: set[str] = set()  # connections with a poll in progress

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not environ.get("PATH_INFO", "").startswith(PATH):
            return self._wsgi_app(environ, start_response)
        start_response = self._with_headers(environ, start_response)
        _remove_other_upgrades(environ)
        if "HTTP_UPGRADE" in environ and (error := _error_in_upgrade(environ)):
            return _respond(start_response, *error)
        if not _sid(environ):
            if refusal := self._refusal(environ):
                return _respond(start_response, UNAVAILABLE, refusal)
        elif not self._is_own_connection(environ):
            return _respond(start_response, BAD_REQUEST, _unknown(environ))
        elif environ["REQUEST_METHOD"] == "POST":
            if error := _error_in_post(environ):
                return _respond(start_response, *error)
            if _sid(environ) not in self._handshakes:  # it may have ended while the body was received
                return _respond(start_response, BAD_REQUEST, _unknown(environ))
        if "HTTP_UPGRADE" in environ and self._has_websocket(environ):
            return _respond(start_response, BAD_REQUEST, "Another upgrade of this connection is in progress.")
        return self._poll(environ, start_response) if _is_poll(environ) else self._socketio_app(environ, start_response)

    def _poll(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one poll of a connection at a time. More would only occupy places of other clients."""
        engine_sid = _sid(environ)
        if engine_sid in self._polling:
            return _respond(start_response, BAD_REQUEST, "This connection has a poll in progress. Wait for its response.")
        self._polling.add(engine_sid)
        try:
            return self._socketio_app(environ, start_response)
        finally:
            self._polling.discard(engine_sid)

    def _refusal(self, environ: WSGIEnvironment) -> str | None:
        """Return why the handshake cannot be accepted now, or None after storing the identity in the environ."""
        if self._is_draining():
            log.info("draining", "refused a socket: this instance is draining")
            return DRAINING
        if _is_from_shed_client(environ) and not self._accepts_shed_sockets():
            return TOO_MANY_FOR_SHED
        try:
            identity = self._identify(environ)
        except TooBusy:
            log.info("opening", "refused a socket: too many are being opened")
            return "Too many sockets are being opened on this instance. Try again."
        except Problem as problem:
            log.info("store", "refused a socket: %s", problem.detail)
            return problem.detail
        # From here on nothing yields to other greenlets, so two handshakes cannot both take the last place.
        if self._is_draining():  # the drain may have begun during the identification
            log.info("draining", "refused a socket: this instance is draining")
            return DRAINING
        if self._handshakes.places >= self._max_sockets:
            log.info("limit", "refused a socket: this instance has reached MAX_SOCKETS (%d)", self._max_sockets)
            return "This instance has reached its limit of sockets."
        if self._handshakes.count(identity) >= self._limit(identity):
            who = f"user {identity.user_id}" if identity else "clients without a session"
            log.info("user limit", "refused a socket: %s reached the limit of %d", who, self._limit(identity))
            return "You have reached the limit of sockets per user on this instance."
        environ[IDENTITY], environ[OPENED_AT] = identity, time.monotonic()
        environ[OPENED_BY] = self._read_session_keys(environ)
        return None

    def _is_own_connection(self, environ: WSGIEnvironment) -> bool:
        """Return whether the session of the request opened the connection. A preflight request has no cookie.

        An ID that does not exist gets the same response, so nobody learns which IDs exist. A client whose session was replaced
        opens a new connection: the connections of its previous session end.
        """
        if environ["REQUEST_METHOD"] == "OPTIONS":
            return True
        handshake = self._handshakes.get(_sid(environ))
        if handshake is None:
            return False
        is_own = bool(handshake[OPENED_BY] == self._read_session_keys(environ))
        if not is_own:
            log.info("session", "refused a request of socket %s: another session opened it", _sid(environ))
        return is_own

    def _has_websocket(self, environ: WSGIEnvironment) -> bool:
        socket = self._engine.sockets.get(_sid(environ))
        return bool(socket and socket.websocket)

    def _limit(self, identity: Identity | None) -> int:
        """Return the limit of the user's places. Replacements of drained sockets do not count, but no more than the limit again:
        otherwise every rolling restart would raise it further for a user who keeps opening sockets."""
        if not identity:
            return max(1, self._max_sockets // ANONYMOUS_SHARE)
        return self._max_sockets_per_user + min(self._max_sockets_per_user, self._count_drained(identity.user_id))

    def _with_headers(self, environ: WSGIEnvironment, start_response: StartResponse) -> StartResponse:
        headers = [*self._headers]
        if (origin := environ.get("HTTP_ORIGIN")) in self._allowed_origins:
            headers += [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true"), ("Vary", "Origin")]

        def start(status: str, own: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*own, *headers], exc_info)

        return start


def _sid(environ: WSGIEnvironment) -> str:
    """Return the Engine.IO ID of the connection, or an empty string for a handshake."""
    sids: list[str] = parse_qs(environ.get("QUERY_STRING", "")).get("sid", [""])
    return sids[0]


def _is_from_shed_client(environ: WSGIEnvironment) -> bool:
    """Return whether an instance with too many sockets has sent this client away. It still has its previous socket meanwhile."""
    return parse_qs(environ.get("QUERY_STRING", "")).get("replaces") == [REBALANCE]


def _unknown(environ: WSGIEnvironment) -> str:
    return json.dumps(f"Invalid session {_sid(environ)}")


def _user_id(identity: Identity | None) -> int | None:
    return identity.user_id if identity else None


def _is_poll(environ: WSGIEnvironment) -> bool:
    return environ["REQUEST_METHOD"] == "GET" and bool(_sid(environ)) and "HTTP_UPGRADE" not in environ


def _remove_other_upgrades(environ: WSGIEnvironment) -> None:
    """Keep `Upgrade` only where it asks for a WebSocket. RFC 9110, 7.8: other protocols, and all in HTTP/1.0, are ignored."""
    if upgrade := environ.pop("HTTP_UPGRADE", ""):
        is_possible = environ["REQUEST_METHOD"] == "GET" and environ["SERVER_PROTOCOL"] != "HTTP/1.0"
        if is_possible and "websocket" in _options(upgrade):
            environ["HTTP_UPGRADE"] = "websocket"


def _error_in_upgrade(environ: WSGIEnvironment) -> tuple[str, str] | None:
    """Return the status and the reason, or None if the request is a WebSocket handshake as in RFC 6455, 4.2.1."""
    key, version = environ.get("HTTP_SEC_WEBSOCKET_KEY", ""), environ.get("HTTP_SEC_WEBSOCKET_VERSION", "")
    if "upgrade" not in _options(environ.get("HTTP_CONNECTION", "")) or not version or not _is_websocket_key(key):
        return BAD_REQUEST, "This is not a valid WebSocket handshake."
    if version != WEBSOCKET_VERSION:
        return UPGRADE_REQUIRED, f"This server supports version {WEBSOCKET_VERSION} of the WebSocket protocol."
    return None


def _options(header: str) -> set[str]:
    return {option.strip() for option in header.lower().split(",")}


def _is_websocket_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == WEBSOCKET_KEY_BYTES
    except ValueError:
        return False


def _error_in_post(environ: WSGIEnvironment) -> tuple[str, str] | None:
    """Return the status and the reason, or None. Engine.IO would drop invalid or excess packets and answer 200."""
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > MAX_MESSAGE_BYTES:
        return TOO_LARGE, f"A message must not be larger than {MAX_MESSAGE_BYTES} bytes."
    is_chunked = "HTTP_TRANSFER_ENCODING" in environ
    body = environ["wsgi.input"].read(MAX_MESSAGE_BYTES + 1 if is_chunked else int(length))
    if len(body) > MAX_MESSAGE_BYTES:
        return TOO_LARGE, f"A message must not be larger than {MAX_MESSAGE_BYTES} bytes."
    if not is_chunked and len(body) < int(length):
        return BAD_REQUEST, "The body is incomplete."
    environ["wsgi.input"], environ["CONTENT_LENGTH"] = BytesIO(body), str(len(body))  # Engine.IO reads only a known length
    if body.count(b"\x1e") >= MAX_PACKETS_PER_POST:
        return TOO_LARGE, f"A request must not contain more than {MAX_PACKETS_PER_POST} packets."
    return None if is_valid_payload(body) else (BAD_REQUEST, "The body is not a valid Engine.IO payload.")


def _respond(start_response: StartResponse, status: str, text: str) -> list[bytes]:
    body = text.encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    if status == UNAVAILABLE:
        metrics.sockets_refused.inc()
        headers.append(("Retry-After", str(RETRY_AFTER_SECONDS)))
    if status == UPGRADE_REQUIRED:
        headers += [("Upgrade", "websocket"), ("Connection", "upgrade"), ("Sec-WebSocket-Version", WEBSOCKET_VERSION)]
    start_response(status, headers)
    return [body]
