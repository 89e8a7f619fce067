"""Encrypted session records: reading, creating and updating them, and rejecting those that do not decrypt."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from app.core import metrics
from app.core.config import Config
from app.core.errors import Unavailable
from app.core.keyring import Keyring, UnknownKey
from app.sessions.cipher import CorruptRecord, RecordCipher, is_encrypted_with
from app.sessions.store import SIGNED, FieldChange, Fields, Owner, SessionStore, record_key

log = logging.getLogger(__name__)

# Fields that describe the session itself. Names that begin with a dot are reserved for them.
CREATED, SEEN, CLIENT = ".created", ".seen", ".client"
USER_ID = "user_id"  # the field that a signed-in session has

REFRESHES_PER_LIFETIME = 24

Changes = dict[str, bytes | None]  # field name -> new plain value in MessagePack, None to delete it


@dataclass(frozen=True)
class Record:
    """A session record as it was stored: encrypted, and decrypted (values in MessagePack)."""

    encrypted: Fields
    plain: Fields

    @property
    def created_at(self) -> int:
        """Seconds since 1970."""
        return int(_decode(self.plain[CREATED]))

    @property
    def seen_at(self) -> int:
        """Seconds since 1970; at most a 24th of the idle lifetime old while the session is in use."""
        return int(_decode(self.plain[SEEN]))

    @property
    def user_id(self) -> int | None:
        """The signed-in user, or None."""
        return int(_decode(self.plain[USER_ID])) if USER_ID in self.plain else None

    @property
    def client(self) -> dict[str, str]:
        """The IP address and user agent at sign-in; empty for a session without a user."""
        return dict(_decode(self.plain[CLIENT])) if CLIENT in self.plain else {}

    def content(self) -> dict[str, Any]:
        return {name: _decode(plain) for name, plain in self.plain.items() if not name.startswith(".")}


def find_changes(record: Record | None, content: Mapping[str, Any]) -> Changes:
    """Compare encoded values, so that a change inside a nested value counts as well."""
    before = record.plain if record else {}
    now = {name: _encode(value) for name, value in content.items()}
    deleted = {name: None for name in before if name not in now and not name.startswith(".")}
    return {name: plain for name, plain in now.items() if before.get(name) != plain} | deleted


class SessionRecords:
    def __init__(
        self, config: Config, store: SessionStore, encryption: Keyring, signing: Keyring, refresh_keys: Callable[[], None]
    ) -> None:
        """`refresh_keys` asks the fleet which keys its instances hold; it raises Unavailable."""
        self.store = store
        self._encryption = encryption
        self._signing = signing
        self._refresh_keys = refresh_keys
        self._ttl = config.session_ttl
        self._max_age = config.session_max_age

    def load(self, key: str) -> Record | None:
        """Return a valid record, or None. A record that is too old, or corrupt in two reads, is removed."""
        encrypted, record, error = self._read(key, self.store.load)
        if error:
            again, record, error = self._read(key, self.store.load_again)
            if error and again != encrypted:
                raise Unavailable("The session store gives contradictory replies. Please try again in a moment.")
        if error:
            self._reject(key, error)
        if record and self.is_too_old(record):
            self.store.destroy(key)
            return None
        return record

    def _read(self, key: str, load: Callable[[str], Fields | None]) -> tuple[Fields | None, Record | None, CorruptRecord | None]:
        encrypted = None
        try:
            encrypted = load(key)
            return encrypted, self.decrypt(key, encrypted) if encrypted else None, None
        except CorruptRecord as error:
            return encrypted, None, error

    def decrypt(self, key: str, encrypted: Fields) -> Record:
        """Return the decrypted record. Raises CorruptRecord."""
        cipher = RecordCipher(self._encryption, key)
        try:
            plain = {name: cipher.decrypt(name, value) for name, value in encrypted.items() if name != SIGNED}
        except UnknownKey as unknown:
            if self._is_key_of_fleet(str(unknown)):
                raise Unavailable("This session was written with a key that this instance does not hold yet.") from None
            raise CorruptRecord("unknown key") from None
        if CREATED not in plain or SEEN not in plain:
            raise CorruptRecord("incomplete")
        return Record(encrypted, plain)

    def create(
        self,
        session_id: str,
        content: Mapping[str, Any],
        owner: Owner | None = None,
        client: dict[str, str] | None = None,
        replaces: str | None = None,
    ) -> Record | None:
        """Store a new record; None if the owner's password has changed since it was checked."""
        key, now = record_key(session_id), int(time.time())
        plain = {name: _encode(value) for name, value in content.items()}
        plain |= {CREATED: _encode(now), SEEN: _encode(now)}
        if client:
            plain[CLIENT] = _encode(client)
        cipher = RecordCipher(self._encryption, key)
        encrypted = {name: cipher.encrypt(name, value) for name, value in plain.items()}
        encrypted[SIGNED] = self._signing.active_id.encode()
        created = self.store.create(key, encrypted, self._ttl_from(now), owner, replaces)
        return Record(encrypted, plain) if created else None

    def update(self, key: str, record: Record, changes: Changes, signed_with: str | None) -> bool:
        """Write changed fields, fields that an older key encrypted, and from time to time when the session was last seen.

        `signed_with`: the ID of the key that signed the browser's cookie. Return False if the record no longer exists. Raises
        Unavailable if the store does not take a change; without changes, the rest is left to a later request.
        """
        cipher, ttl = RecordCipher(self._encryption, key), None
        merged = {name: FieldChange(None if plain is None else cipher.encrypt(name, plain)) for name, plain in changes.items()}
        for name, plain in record.plain.items():
            if name not in merged and not is_encrypted_with(self._encryption.active_id, record.encrypted[name]):
                merged[name] = FieldChange(cipher.encrypt(name, plain), expected=record.encrypted[name])
        if signed_with and record.encrypted.get(SIGNED) != signed_with.encode():
            merged[SIGNED] = FieldChange(signed_with.encode())
        if time.time() - record.seen_at >= self._ttl / REFRESHES_PER_LIFETIME:
            ttl = self._ttl_from(record.created_at)
            merged[SEEN] = FieldChange(cipher.encrypt(SEEN, _encode(int(time.time()))), expected=record.encrypted[SEEN])
        if not merged:
            return True
        try:
            return self.store.merge(key, merged, ttl, record.user_id if ttl is not None else None)
        except Unavailable:
            if changes:
                raise
            return True  # a store that is read-only or full does not keep users from reading

    def expires_at(self, record: Record) -> int:
        """Return when the session ends if it is not used again, in seconds since 1970."""
        return min(record.seen_at + self._ttl, record.created_at + self._max_age)

    def seconds_to_max_age(self, record: Record) -> int:
        return record.created_at + self._max_age - int(time.time())

    def is_too_old(self, record: Record) -> bool:
        return record.created_at + self._max_age <= time.time()

    def _ttl_from(self, created_at: int) -> int:
        """The idle lifetime, limited by the absolute one, in seconds."""
        return max(1, min(self._ttl, created_at + self._max_age - int(time.time())))

    def _is_key_of_fleet(self, key_id: str) -> bool:
        """Return whether another live instance holds the key; then the record is valid and must not be removed.

        This instance may have been disconnected from the fleet, so it asks once before it rejects a record. Raises Unavailable.
        """
        if key_id not in self._encryption.known_ids:
            self._refresh_keys()
        return key_id in self._encryption.known_ids

    def _reject(self, key: str, error: CorruptRecord) -> None:
        reason = str(error)
        metrics.sessions_rejected.labels(reason).inc()
        log.warning("session record rejected and removed: %s (record %s)", reason, key)
        self.store.destroy(key)


def _encode(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def _decode(plain: bytes) -> Any:
    return msgspec.msgpack.decode(plain)
