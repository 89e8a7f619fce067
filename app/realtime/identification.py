"""The users and sessions of sockets: who opens one, and whether a session still exists.

Sockets that are opened at the same time are identified together, without a Flask request for each: when an instance ends,
hundreds of clients connect to the others within a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from werkzeug.sansio.http import parse_cookie

from app.core.logs import ThrottledLog
from app.http.security import is_cross_site
from app.realtime.connections import Identity
from app.realtime.openings import Openings, is_valid
from app.sessions.cookie import SignedValue, read_session_ids
from app.sessions.interface import SessionInterface
from app.sessions.session import Session
from app.sessions.store import record_key

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = ThrottledLog(logging.getLogger(__name__))


class Identification:
    def __init__(
        self,
        interface: SessionInterface,
        cookie_name: str,
        allowed_origins: Iterable[str],
        openings: Openings,
        password_versions: Callable[[Sequence[int]], dict[int, int]],
    ) -> None:
        """`password_versions` returns those of the users that exist, by user ID. It raises Unavailable."""
        self._interface = interface
        self._cookie_name = cookie_name
        self._allowed_origins = frozenset(allowed_origins)
        self._openings = openings
        self._password_versions = password_versions

    def identify(self, environ: WSGIEnvironment) -> Identity | None:
        """Return the user and the session of a handshake, or None. Raises Unavailable and TooBusy.

        A session of a deleted account or of an older password is ended.
        """
        if is_cross_site(environ, self._allowed_origins):
            origin = environ.get("HTTP_ORIGIN", "")
            log.info("origin", "refused a socket: its Origin %.200s is neither this site nor in ALLOWED_ORIGINS", origin)
            return None
        self._openings.refuse_if_busy()
        session = Session(self._interface.records, lambda: self._session_ids(environ))
        user_id = session.get("user_id")
        if user_id is not None and self._openings.password_version(user_id) == session["password_version"]:
            assert session.key
            return Identity(user_id, session["password_version"], session.key)
        if user_id is not None:
            self._interface.discard(session)
        log.info("no session", "refused a socket: it has no valid session")
        return None

    def session_keys(self, environ: WSGIEnvironment) -> tuple[str, ...]:
        """Return the store keys of the signed session cookies of a request. Asks no store."""
        return tuple(sorted(record_key(signed.value) for signed in self._session_ids(environ)))

    def valid_identities(self, identities: Sequence[Identity]) -> set[Identity]:
        """Return those whose session exists and was opened with the current password. Raises Unavailable."""
        existing = self._interface.store.existing([identity.session_key for identity in identities])
        versions = self._password_versions(sorted({identity.user_id for identity in identities}))
        return {identity for identity in identities if is_valid(identity, existing, versions)}

    def _session_ids(self, environ: WSGIEnvironment) -> list[SignedValue]:
        cookies = parse_cookie(environ.get("HTTP_COOKIE", ""))
        return read_session_ids(self._interface.signing, cookies.getlist(self._cookie_name))
