"""Flask's session interface on top of encrypted, shared session records.

It keeps Flask-Session's interface but replaces its behaviour: a request that does not access the session loads nothing, a save
writes only changed fields and only if the session still exists, the store key is a digest of the session ID, and a record that
can't be decrypted starts a new session instead of an error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import SessionMixin
from flask_session.base import ServerSideSessionInterface

from app.core.config import Config
from app.core.keyring import Keyring
from app.sessions import cookie
from app.sessions.cipher import CorruptRecord
from app.sessions.records import Record, SessionRecords
from app.sessions.session import Session
from app.sessions.store import Fields, Owner, SessionStore


@dataclass(frozen=True)
class EndedSessions:
    """Sessions that have ended: the one with the record `key`, or all of a user except `keep`."""

    reason: str  # signed_out, revoked, replaced, password_changed, account_deleted, expired
    key: str | None = None
    user_id: int | None = None
    keep: str | None = None


class SessionInterface(ServerSideSessionInterface):  # type: ignore[misc] # Flask-Session has no type hints
    session_class = Session

    def __init__(
        self,
        app: Flask,
        config: Config,
        store: SessionStore,
        encryption: Keyring,
        signing: Keyring,
        refresh_keys: Callable[[], None],
    ) -> None:
        """`refresh_keys` asks the fleet which keys its instances hold; it raises Unavailable."""
        super().__init__(app, sid_length=32)
        self.on_ended: list[Callable[[EndedSessions], None]] = []
        self.signing = signing
        self.records = SessionRecords(config, store, encryption, signing, refresh_keys)

    @property
    def store(self) -> SessionStore:
        return self.records.store

    # Called by Flask.

    def open_session(self, app: Flask, request: Request) -> Session:
        name = self.get_cookie_name(app)
        return Session(self.records, lambda: cookie.read_session_ids(self.signing, request.cookies.getlist(name)))

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        assert isinstance(session, Session)
        if session.is_ended:
            response.delete_cookie(self.get_cookie_name(app), **self.cookie_attributes(app))
        if not session.is_loaded:
            return
        if "Vary" in response.headers:
            response.vary.add("Cookie")
        else:
            response.headers["Vary"] = "Cookie"  # in nearly every response, and a fifth of the cost
        session.save()
        if session.record and session.session_id and session.signed_with != self.signing.active_id:
            value = cookie.sign(self.signing, session.session_id)
            max_age = self.records.seconds_to_max_age(session.record)
            response.set_cookie(self.get_cookie_name(app), value, max_age=max_age, **self.cookie_attributes(app))

    # Called by app.auth.guards.

    def start(self, session: Session, owner: Owner, client: dict[str, str], values: dict[str, Any]) -> bool:
        """Start an authenticated session, see Session.start."""
        replaced = session.key
        started = session.start(owner, client, values)
        if started and replaced:
            self._notify(EndedSessions("replaced", key=replaced))
        return started

    def end(self, session: Session, reason: str = "signed_out") -> None:
        """End the session on every instance at once; slower requests of it can't restore it."""
        if session.key:
            self.end_record(session.key, reason)
        session.end(delete_cookie=True)

    def discard(self, session: Session) -> None:
        """End an expired session and leave the browser's cookie alone: it may already belong to a newer session."""
        if session.key:
            self.end_record(session.key, "expired")
        session.end(delete_cookie=False)

    def end_record(self, key: str, reason: str) -> None:
        self.store.destroy(key)
        self._notify(EndedSessions(reason, key=key))

    def end_all(self, user_id: int, reason: str, *, keep: str | None, password_version: int | None = None) -> int:
        """End all sessions of a user except `keep`; return how many. See SessionStore.destroy_all."""
        try:
            return self.store.destroy_all(user_id, keep=keep, password_version=password_version)
        finally:
            self._notify(EndedSessions(reason, user_id=user_id, keep=keep))

    def _notify(self, ended: EndedSessions) -> None:
        for callback in self.on_ended:
            callback(ended)

    def describe(self, key: str, encrypted: Fields) -> dict[str, Any] | None:
        """Return created_at, last_seen_at (seconds since 1970), ip and user_agent; None if the record is corrupt or too old."""
        try:
            record: Record | None = self.records.decrypt(key, encrypted)
        except CorruptRecord:
            record = self.records.load(key)
        if record is None or self.records.is_too_old(record):
            return None
        return {"created_at": record.created_at, "last_seen_at": record.seen_at, **record.client}

    def cookie_attributes(self, app: Flask) -> dict[str, Any]:
        """Return the attributes of every cookie that this application sets."""
        return {"path": "/", "httponly": True, "samesite": "Lax", "secure": self.get_cookie_secure(app)}

    # Flask-Session's own storage methods are not used.

    def _retrieve_session_data(self, store_id: str) -> None:
        raise NotImplementedError

    _delete_session = _upsert_session = _retrieve_session_data
