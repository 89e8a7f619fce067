"""Signed cookies. The session cookie is a random ID and a signature, so an invented ID is rejected without a Redis round trip.

On a Redis Cluster the ID of a signed-in user's session begins with the user's number: it says which node has the record.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from itsdangerous import BadSignature, Signer

from app.core.keyring import Keyring

MAX_OF_ONE_NAME = 5  # a browser may send several cookies of one name, of other paths or domains

_SESSION_ID = re.compile(r"([1-9][0-9]*\.)?[A-Za-z0-9_-]{43}")


class SignedValue(NamedTuple):
    value: str
    key_id: str  # ID of the key that signed it


def new_session_id(user_id: int | None = None) -> str:
    """Return 256 random bits in URL-safe Base64, after the user's number and a dot if it is given."""
    random_bits = secrets.token_urlsafe(32)
    return random_bits if user_id is None else f"{user_id}.{random_bits}"


def sign(keyring: Keyring, value: str, purpose: str = "session") -> str:
    return _signer(keyring.active, purpose).sign(value).decode()


def read_signed(keyring: Keyring, text: str, purpose: str = "session") -> SignedValue | None:
    """Verify a signed cookie; None if no key of the keyring signed it for this purpose."""
    for key_id, key in keyring.items():
        try:
            return SignedValue(_signer(key, purpose).unsign(text).decode(), key_id)
        except (BadSignature, UnicodeError):
            continue
    return None


def read_session_ids(keyring: Keyring, texts: Iterable[str]) -> list[SignedValue]:
    """Return the valid ones of several cookies, without duplicates."""
    texts = list(dict.fromkeys(texts))[:MAX_OF_ONE_NAME]
    return [found for text in texts if (found := read_session_id(keyring, text))]


def read_session_id(keyring: Keyring, text: str) -> SignedValue | None:
    signed = read_signed(keyring, text)
    return signed if signed and _SESSION_ID.fullmatch(signed.value) else None


@lru_cache
def _signer(key: bytes, purpose: str) -> Signer:
    """Each purpose has its own derived key. Cached, because deriving it for each signature would be slow."""
    derived = hmac.digest(key, f"reporadar {purpose}".encode(), "sha256")
    return Signer(derived, key_derivation="none", digest_method=hashlib.sha256)
