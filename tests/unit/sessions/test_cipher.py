from __future__ import annotations

import os
import pickle

import msgspec
import pytest

from app.core.keyring import Keyring, UnknownKey, key_id
from app.sessions.cipher import FORMAT, CorruptRecord, RecordCipher, encryption_key_id

KEY, OTHER_KEY = os.urandom(32), os.urandom(32)
RECORD = "session:1"
PLAIN = b"a value"


@pytest.fixture
def ring() -> Keyring:
    return Keyring("encryption", (KEY,))


@pytest.fixture
def cipher(ring: Keyring) -> RecordCipher:
    return RecordCipher(ring, RECORD)


@pytest.mark.parametrize("plain", [b"", b"x", PLAIN, os.urandom(100_000)], ids=["empty", "one byte", "some", "many"])
def test_encrypted_value_decrypts(cipher: RecordCipher, ring: Keyring, plain: bytes) -> None:
    assert RecordCipher(ring, RECORD).decrypt("name", cipher.encrypt("name", plain)) == plain


def test_ciphertext_does_not_contain_the_value(cipher: RecordCipher) -> None:
    plain = os.urandom(64)
    sealed = cipher.encrypt("name", plain)
    assert all(plain[start : start + 4] not in sealed for start in range(60))


def test_equal_values_have_different_ciphertexts(cipher: RecordCipher) -> None:
    assert len({cipher.encrypt("name", PLAIN) for _ in range(100)}) == 100


def test_active_key_encrypts_and_its_id_is_stored() -> None:
    ring = Keyring("encryption", (KEY, OTHER_KEY))
    assert encryption_key_id(RecordCipher(ring, RECORD).encrypt("name", PLAIN)) == key_id(KEY)
    ring.apply_fleet_state(key_id(OTHER_KEY), frozenset(ring.ids))
    sealed = RecordCipher(ring, RECORD).encrypt("name", PLAIN)
    assert encryption_key_id(sealed) == key_id(OTHER_KEY)
    assert RecordCipher(Keyring("encryption", (OTHER_KEY,)), RECORD).decrypt("name", sealed) == PLAIN


def test_each_record_has_its_own_key(ring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: b"\0" * count)  # the same nonce
    first, second = (RecordCipher(ring, record).encrypt("name", b"\0" * 64) for record in ("session:1", "session:2"))
    assert first[21:85] != second[21:85]


def test_value_copied_to_another_field_does_not_decrypt(cipher: RecordCipher) -> None:
    with pytest.raises(CorruptRecord, match="authentication"):
        cipher.decrypt("is_admin", cipher.encrypt("name", PLAIN))


def test_value_copied_to_another_record_does_not_decrypt(cipher: RecordCipher, ring: Keyring) -> None:
    with pytest.raises(CorruptRecord, match="authentication"):
        RecordCipher(ring, "session:2").decrypt("name", cipher.encrypt("name", PLAIN))


def test_each_flipped_bit_is_detected(cipher: RecordCipher) -> None:
    sealed = cipher.encrypt("name", PLAIN)
    for position in range(len(sealed)):
        for bit in range(8):
            flipped = bytearray(sealed)
            flipped[position] ^= 1 << bit
            with pytest.raises((CorruptRecord, UnknownKey)):
                cipher.decrypt("name", bytes(flipped))


def test_truncated_value_does_not_decrypt(cipher: RecordCipher) -> None:
    sealed = cipher.encrypt("name", PLAIN)
    for length in range(len(sealed)):
        with pytest.raises(CorruptRecord):
            cipher.decrypt("name", sealed[:length])


def test_extended_value_does_not_decrypt(cipher: RecordCipher) -> None:
    with pytest.raises(CorruptRecord, match="authentication"):
        cipher.decrypt("name", cipher.encrypt("name", PLAIN) + b"\0")


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_data_is_not_loaded(cipher: RecordCipher, tmp_path_factory: pytest.TempPathFactory, protocol: int) -> None:
    path = tmp_path_factory.mktemp("trap") / "sprung"
    pickled = pickle.dumps(Trap(str(path)), protocol)
    for value in (pickled, FORMAT + pickled, FORMAT + bytes.fromhex(key_id(KEY)) + pickled):
        with pytest.raises((CorruptRecord, UnknownKey)):
            cipher.decrypt("name", value)
    assert not path.exists()
    pickle.loads(pickled).close()  # noqa: S301 - the trap works
    assert path.exists()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\0",
        b"hello",
        b"\x80\x04N.",
        msgspec.msgpack.encode({"user_id": 1}),  # Flask-Session's own serialisation
        b'{"user_id": 1}',
        b"gAAAAABo" * 20,  # Fernet
        b"0011:deadbeef:" + b"ab" * 40,
    ],
)
def test_other_formats_are_corrupt_records(cipher: RecordCipher, value: bytes) -> None:
    with pytest.raises(CorruptRecord, match="format"):
        cipher.decrypt("name", value)


def test_unknown_format_version_is_corrupt(cipher: RecordCipher) -> None:
    sealed = cipher.encrypt("name", PLAIN)
    for version in (b"\x00", b"\x02"):
        with pytest.raises(CorruptRecord, match="format"):
            cipher.decrypt("name", version + sealed[1:])


def test_unknown_key_is_named(cipher: RecordCipher) -> None:
    sealed = RecordCipher(Keyring("encryption", (OTHER_KEY,)), RECORD).encrypt("name", PLAIN)
    with pytest.raises(UnknownKey, match=key_id(OTHER_KEY)):
        cipher.decrypt("name", sealed)


def test_value_with_the_wrong_key_id_does_not_decrypt() -> None:
    ring = Keyring("encryption", (KEY, OTHER_KEY))
    sealed = RecordCipher(ring, RECORD).encrypt("name", PLAIN)
    renamed = sealed[:1] + bytes.fromhex(key_id(OTHER_KEY)) + sealed[9:]
    with pytest.raises(CorruptRecord, match="authentication"):
        RecordCipher(ring, RECORD).decrypt("name", renamed)
