"""Encryption of session records: AES-256-GCM, each field on its own and bound to its place.

A sealed field is: format (1 byte), key id (8), nonce (12), ciphertext and tag. Its associated data are the record's key, the
field's name and the key id, so that a value that was copied elsewhere does not open. Each record has a key of its own, derived
from the secret, which keeps random nonces far from the limit of 2^32 messages under one key (NIST SP 800-38D, 8.3).
"""

from __future__ import annotations

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.core.keyring import Keyring

FORMAT = b"\x01"
_KEY_ID = slice(1, 9)
_NONCE = slice(9, 21)
_SEALED = slice(21, None)
_LEAST_BYTES = _NONCE.stop + 16  # with the tag of an empty value


class Corrupt(Exception):
    """These bytes were not written by this application, or not for this place. The argument is the reason, in a word."""


class RecordCipher:
    """Seals and opens the fields of one record."""

    def __init__(self, keyring: Keyring, record: str) -> None:
        self._keyring = keyring
        self._record = record.encode()
        self._ciphers: dict[str, AESGCM] = {}

    def seal(self, field: str, plain: bytes) -> bytes:
        key_id = self._keyring.active_id
        nonce = os.urandom(12)
        sealed = self._cipher(key_id).encrypt(nonce, plain, self._place(field, key_id))
        return FORMAT + bytes.fromhex(key_id) + nonce + sealed

    def open(self, field: str, sealed: bytes) -> bytes:
        """Raises Corrupt, or UnknownKey for a field that was sealed with a key that this instance does not hold."""
        key_id = sealed_with(sealed)
        cipher = self._ciphers.get(key_id) or self._cipher(key_id)
        try:
            return cipher.decrypt(sealed[_NONCE], sealed[_SEALED], self._place(field, key_id))
        except InvalidTag:
            raise Corrupt("authentication") from None

    def _cipher(self, key_id: str) -> AESGCM:
        if key_id not in self._ciphers:
            record_key = hmac.digest(self._keyring[key_id], b"session record\0" + self._record, "sha256")
            self._ciphers[key_id] = AESGCM(record_key)
        return self._ciphers[key_id]

    def _place(self, field: str, key_id: str) -> bytes:
        return b"%b\0%b\0%b" % (self._record, field.encode(), key_id.encode())


def sealed_with(sealed: bytes) -> str:
    """The id of the key that sealed this. Raises Corrupt where there is none to read."""
    if len(sealed) < _LEAST_BYTES or sealed[:1] != FORMAT:
        raise Corrupt("format")
    return sealed[_KEY_ID].hex()


def is_sealed_with(key_id: str, sealed: bytes) -> bool:
    return sealed[_KEY_ID] == bytes.fromhex(key_id)
