"""Encryption of session records: AES-256-GCM, field by field; each field is bound to its record and name.

An encrypted field consists of format (1 byte), key ID (8), nonce (12), ciphertext and tag. The associated data are the record's
key, the field name and the key ID, so a value that was copied to another place does not decrypt. Each record has its own
encryption key, derived from the secret. That keeps random nonces far below the limit of 2^32 messages per key (NIST SP 800-38D,
8.3).
"""

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.core.keyring import Keyring

FORMAT = b"\x01"
_KEY_ID = slice(1, 9)
_NONCE = slice(9, 21)
_CIPHERTEXT = slice(21, None)
_MIN_BYTES = _NONCE.stop + 16  # the tag of an empty value


class CorruptRecord(Exception):
    """The stored data was not written by this application, or not for this place. The argument names the reason."""


class RecordCipher:
    """Encrypts and decrypts the fields of one record."""

    def __init__(self, keyring: Keyring, record_key: str) -> None:
        self._keyring = keyring
        self._record_key = record_key.encode()
        self._ciphers: dict[str, AESGCM] = {}

    def encrypt(self, field: str, plain: bytes) -> bytes:
        key_id = self._keyring.active_id
        nonce = os.urandom(12)
        ciphertext = self._cipher(key_id).encrypt(nonce, plain, self._associated_data(field, key_id))
        return FORMAT + bytes.fromhex(key_id) + nonce + ciphertext

    def decrypt(self, field: str, encrypted: bytes) -> bytes:
        """Raises CorruptRecord, or UnknownKey if this instance does not hold the key that encrypted the field."""
        key_id = encryption_key_id(encrypted)
        cipher = self._ciphers.get(key_id) or self._cipher(key_id)
        try:
            return cipher.decrypt(encrypted[_NONCE], encrypted[_CIPHERTEXT], self._associated_data(field, key_id))
        except InvalidTag:
            raise CorruptRecord("authentication") from None

    def _cipher(self, key_id: str) -> AESGCM:
        if key_id not in self._ciphers:
            derived = hmac.digest(self._keyring[key_id], b"session record\0" + self._record_key, "sha256")
            self._ciphers[key_id] = AESGCM(derived)
        return self._ciphers[key_id]

    def _associated_data(self, field: str, key_id: str) -> bytes:
        return b"%b\0%b\0%b" % (self._record_key, field.encode(), key_id.encode())


def encryption_key_id(encrypted: bytes) -> str:
    """Return the ID of the key that encrypted a field. Raises CorruptRecord if the format is invalid."""
    if len(encrypted) < _MIN_BYTES or encrypted[:1] != FORMAT:
        raise CorruptRecord("format")
    return encrypted[_KEY_ID].hex()


def is_encrypted_with(key_id: str, encrypted: bytes) -> bool:
    return encrypted[_KEY_ID] == bytes.fromhex(key_id)
