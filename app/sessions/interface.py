"""Flask's session on top of an encrypted, shared record.

Flask-Session's interface with everything replaced that a fleet can't live with: nothing is loaded before a view looks at the
session, nothing is written that did not change, a write touches only the fields that it changed, and only where the session still
exists, ids are stored as digests, and what can't be opened is a fresh start instead of an error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from flask import Flask, Request, Response
from flask.sessions import SessionMixin
from flask_session.base import ServerSideSessionInterface

from app.core import metrics
from app.core.callbacks import do_nothing
from app.core.config import Config
from app.core.errors import Unavailable
from app.core.keyring import Keyring, UnknownKey
from app.sessions import cookie
from app.sessions.cipher import Corrupt, RecordCipher, is_sealed_with
from app.sessions.session import Presented, Session
from app.sessions.store import SIGNED, Change, Fields, Owner, SessionStore, record_key

log = logging.getLogger(__name__)

# Fields of a record that are not the session's own; a session's names can't begin with a dot.
CREATED, SEEN, CLIENT = ".created", ".seen", ".client"

REFRESHES_PER_LIFETIME = 24


@dataclass(frozen=True)
class Ended:
    """Sessions that are no more: one, by the key of its record, or all of a user but one."""

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
        """`refresh_keys`: asks what keys the fleet knows of now; raises Unavailable."""
        super().__init__(app, sid_length=32)
        self.on_ended: Callable[[Ended], None] = do_nothing
        self._refresh_keys = refresh_keys
        self.store = store
        self.encryption = encryption
        self.signing = signing
        self._ttl = config.session_ttl
        self._max_age = config.session_max_age

    # Called by Flask.

    def open_session(self, app: Flask, request: Request) -> Session:
        def read_cookie() -> Presented:
            return cookie.read_session_id(self.signing, request.cookies.get(self.get_cookie_name(app), "")) or (None, None)

        return Session(self.load, read_cookie)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        assert isinstance(session, Session)
        if session.ended:
            response.delete_cookie(self.get_cookie_name(app), **self.cookie_attributes(app))
        if not session.opened:
            return
        response.vary.add("Cookie")
        try:
            self._write(session)
        except Unavailable:
            session.opened = False  # Flask saves again with the error page, which would fail again
            raise
        if session.exists and session.signed_with != self.signing.active_id:
            self._set_cookie(app, session, response)

    # Called by whoever signs users in and out.

    def start(self, session: Session, owner: Owner, client: dict[str, str], values: dict[str, Any]) -> bool:
        """Begins an authenticated session under a new id; the one that it takes the place of is dead everywhere.

        False, and the session is empty, if the owner's password has changed since it was checked.
        """
        replaces, session.ended = session.key, False
        session.forget()
        session.content = dict(values)
        try:
            created = self._create(session, owner=owner, client=client, replaces=replaces)
        except Unavailable:
            session.forget()
            raise
        if not created:
            session.forget()
        session.opened = True
        if created and replaces:
            self.on_ended(Ended("replaced", key=replaces))
        return created

    def end(self, session: Session, reason: str = "signed_out") -> None:
        """Dead at once, on every instance, whatever slower requests of it still do."""
        if session.key:
            self.end_record(session.key, reason)
        session.forget()
        session.opened = session.ended = True

    def discard(self, session: Session) -> None:
        """The same without a word to the browser, whose cookie may be that of a newer session by now."""
        self.end(session, "expired")
        session.ended = False

    def end_record(self, key: str, reason: str) -> None:
        self.store.destroy(key)
        self.on_ended(Ended(reason, key=key))

    def end_all(self, user_id: int, reason: str, *, keep: str | None, password_version: int | None = None) -> int:
        """All records of a user but the one to keep; returns how many. See SessionStore.destroy_all."""
        try:
            return self.store.destroy_all(user_id, keep=keep, password_version=password_version)
        finally:
            self.on_ended(Ended(reason, user_id=user_id, keep=keep))

    def load(self, session: Session) -> None:
        """Fills the session from its record; anything that is not a valid, living record leaves it empty and without an id."""
        key = session.key
        opened = self._open(key) if key else None
        if opened is None:
            session.session_id = session.signed_with = None
        else:
            session.sealed, session.loaded = opened
            session.created_at, session.seen_at = (_decode(session.loaded[name]) for name in (CREATED, SEEN))
            session.content = {name: _decode(plain) for name, plain in session.loaded.items() if not name.startswith(".")}
            session.exists = True
        session.opened = True

    def describe(self, key: str, sealed: Fields) -> dict[str, Any] | None:
        """What the user may know of one of their sessions; None if its record is damaged or too old."""
        opened = self._decrypt(key, sealed)
        if opened is None or self._is_too_old(opened):
            return None
        client = _decode(opened[CLIENT]) if CLIENT in opened else {}
        return {"created_at": _decode(opened[CREATED]), "last_seen_at": _decode(opened[SEEN]), **client}

    def expires_at(self, session: Session) -> int:
        return min(session.seen_at + self._ttl, session.created_at + self._max_age)

    # Reading.

    def _open(self, key: str) -> tuple[Fields, Fields] | None:
        try:
            sealed = self.store.load(key)
        except Corrupt as corrupt:
            self._reject(key, corrupt)
            return None
        opened = self._decrypt(key, sealed) if sealed else None
        if sealed is None or opened is None:
            return None
        if self._is_too_old(opened):
            self.store.destroy(key)
            return None
        return sealed, opened

    def _decrypt(self, key: str, sealed: Fields) -> Fields | None:
        cipher = RecordCipher(self.encryption, key)
        try:
            opened = {name: cipher.open(name, value) for name, value in sealed.items() if name != SIGNED}
            if CREATED not in opened or SEEN not in opened:
                raise Corrupt("incomplete")
            return opened
        except UnknownKey as unknown:
            if self._is_known_to_the_fleet(str(unknown)):
                raise Unavailable("This session was written with a key that this instance does not hold yet.") from None
            self._reject(key, Corrupt("unknown key"))
        except Corrupt as corrupt:
            self._reject(key, corrupt)
        return None

    def _is_known_to_the_fleet(self, key_id: str) -> bool:
        """Then the record is no garbage, and left for an instance that holds the key. An instance that was cut off for a while
        may not have heard of it, so it asks once more before the record is given up. Raises Unavailable."""
        if key_id not in self.encryption.known_ids:
            self._refresh_keys()
        return key_id in self.encryption.known_ids

    def _reject(self, key: str, corrupt: Corrupt) -> None:
        reason = str(corrupt)
        metrics.sessions_rejected.labels(reason).inc()
        log.warning("session record rejected and removed: %s (record %s)", reason, key)
        self.store.destroy(key)

    def _is_too_old(self, opened: Fields) -> bool:
        return bool(_decode(opened[CREATED]) + self._max_age <= time.time())

    # Writing.

    def _write(self, session: Session) -> None:
        changes = self._changes(session)
        if session.exists:
            self._update(session, changes)
        elif changes and not session.ended:
            self._create(session, owner=None, client=None, replaces=None)

    def _changes(self, session: Session) -> dict[str, bytes | None]:
        """Field by field against what was loaded, so that a change inside of a nested value counts as well."""
        now = {name: _encode(value) for name, value in session.content.items()}
        gone = {name: None for name in session.loaded if name not in now and not name.startswith(".")}
        return {name: plain for name, plain in now.items() if session.loaded.get(name) != plain} | gone

    def _update(self, session: Session, changes: dict[str, bytes | None]) -> None:
        key = session.key
        assert key
        cipher, ttl = RecordCipher(self.encryption, key), None
        merged = {name: Change(cipher.seal(name, plain) if plain is not None else None) for name, plain in changes.items()}
        for name, plain in session.loaded.items():
            if name not in merged and not is_sealed_with(self.encryption.active_id, session.sealed[name]):
                merged[name] = Change(cipher.seal(name, plain), expected=session.sealed[name])
        if session.signed_with and session.sealed.get(SIGNED) != session.signed_with.encode():
            merged[SIGNED] = Change(session.signed_with.encode())
        if self._is_due_for_refresh(session):
            ttl = self._remaining(session.created_at)
            merged[SEEN] = Change(cipher.seal(SEEN, _encode(int(time.time()))), expected=session.sealed[SEEN])
        if merged and not self.store.merge(key, merged, ttl):
            session.exists = False  # ended by another request meanwhile: it stays so

    def _is_due_for_refresh(self, session: Session) -> bool:
        return time.time() - session.seen_at >= self._ttl / REFRESHES_PER_LIFETIME

    def _create(self, session: Session, *, owner: Owner | None, client: dict[str, str] | None, replaces: str | None) -> bool:
        session.session_id, session.signed_with = cookie.new_session_id(), None
        session.created_at = session.seen_at = int(time.time())
        key = record_key(session.session_id)
        plain = {name: _encode(value) for name, value in session.content.items()}
        plain |= {CREATED: _encode(session.created_at), SEEN: _encode(session.seen_at)}
        if client:
            plain[CLIENT] = _encode(client)
        cipher = RecordCipher(self.encryption, key)
        sealed = {name: cipher.seal(name, value) for name, value in plain.items()}
        sealed[SIGNED] = self.signing.active_id.encode()
        session.exists = self.store.create(key, sealed, self._remaining(session.created_at), owner, replaces)
        session.sealed, session.loaded = sealed, plain
        return session.exists

    def _remaining(self, created_at: int) -> int:
        """The life that a record is given now, in seconds: idle, but not beyond the absolute one."""
        return max(1, min(self._ttl, created_at + self._max_age - int(time.time())))

    # The cookie.

    def _set_cookie(self, app: Flask, session: Session, response: Response) -> None:
        assert session.session_id
        remaining = session.created_at + self._max_age - int(time.time())
        value = cookie.sign(self.signing, session.session_id)
        response.set_cookie(self.get_cookie_name(app), value, max_age=remaining, **self.cookie_attributes(app))

    def cookie_attributes(self, app: Flask) -> dict[str, Any]:
        """Of every cookie that this application sets."""
        return {"path": "/", "httponly": True, "samesite": "Lax", "secure": self.get_cookie_secure(app)}

    # Flask-Session's own storage methods are not used: the store is.

    def _retrieve_session_data(self, store_id: str) -> None:
        raise NotImplementedError

    _delete_session = _upsert_session = _retrieve_session_data


def _encode(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def _decode(plain: bytes) -> Any:
    return msgspec.msgpack.decode(plain)
