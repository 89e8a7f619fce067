"""The session cookie: a random id and a signature, so that an invented id is refused before anything is asked of Redis."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from functools import lru_cache

from itsdangerous import BadSignature, Signer

from app.core.keyring import Keyring

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{43}")


def new_session_id() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def sign(keyring: Keyring, value: str, purpose: str = "session") -> str:
    return _signer(keyring.active, purpose).sign(value).decode()


def read_signed(keyring: Keyring, text: str, purpose: str = "session") -> tuple[str, str] | None:
    """The value and the id of the key that signed it; None if no key of the ring did, for this purpose."""
    for key_id, key in keyring.items():
        try:
            return _signer(key, purpose).unsign(text).decode(), key_id
        except (BadSignature, UnicodeError):
            continue
    return None


def read_session_id(keyring: Keyring, text: str) -> tuple[str, str] | None:
    read = read_signed(keyring, text)
    return read if read and _SESSION_ID.fullmatch(read[0]) else None


@lru_cache
def _signer(key: bytes, purpose: str) -> Signer:
    """With a key of its own for each purpose, which is derived once and not with each signature."""
    derived = hmac.digest(key, f"reporadar {purpose}".encode(), "sha256")
    return Signer(derived, key_derivation="none", digest_method=hashlib.sha256)
