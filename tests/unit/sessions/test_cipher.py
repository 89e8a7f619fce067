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
def test_what_was_sealed_opens(cipher: RecordCipher, ring: Keyring, plain: bytes) -> None:
    assert RecordCipher(ring, RECORD).decrypt("name", cipher.encrypt("name", plain)) == plain


def test_nothing_of_the_value_can_be_seen(cipher: RecordCipher) -> None:
    plain = os.urandom(64)
    sealed = cipher.encrypt("name", plain)
    assert all(plain[start : start + 4] not in sealed for start in range(60))


def test_the_same_value_never_looks_the_same(cipher: RecordCipher) -> None:
    assert len({cipher.encrypt("name", PLAIN) for _ in range(100)}) == 100


def test_the_active_key_seals_and_is_named() -> None:
    ring = Keyring("encryption", (KEY, OTHER_KEY))
    assert encryption_key_id(RecordCipher(ring, RECORD).encrypt("name", PLAIN)) == key_id(KEY)
    ring.apply_fleet_state(key_id(OTHER_KEY), frozenset(ring.ids))
    sealed = RecordCipher(ring, RECORD).encrypt("name", PLAIN)
    assert encryption_key_id(sealed) == key_id(OTHER_KEY)
    assert RecordCipher(Keyring("encryption", (OTHER_KEY,)), RECORD).decrypt("name", sealed) == PLAIN


def test_each_record_has_a_key_of_its_own(ring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: b"\0" * count)  # the same nonce
    first, second = (RecordCipher(ring, record).encrypt("name", b"\0" * 64) for record in ("session:1", "session:2"))
    assert first[21:85] != second[21:85]


def test_a_value_that_was_copied_to_another_field_does_not_open(cipher: RecordCipher) -> None:
    with pytest.raises(CorruptRecord, match="authentication"):
        cipher.decrypt("is_admin", cipher.encrypt("name", PLAIN))


def test_a_value_that_was_copied_to_another_record_does_not_open(cipher: RecordCipher, ring: Keyring) -> None:
    with pytest.raises(CorruptRecord, match="authentication"):
        RecordCipher(ring, "session:2").decrypt("name", cipher.encrypt("name", PLAIN))


def test_a_flipped_bit_anywhere_is_noticed(cipher: RecordCipher) -> None:
    sealed = cipher.encrypt("name", PLAIN)
    for position in range(len(sealed)):
        for bit in range(8):
            flipped = bytearray(sealed)
            flipped[position] ^= 1 << bit
            with pytest.raises((CorruptRecord, UnknownKey)):
                cipher.decrypt("name", bytes(flipped))


def test_a_value_that_was_cut_off_anywhere_does_not_open(cipher: RecordCipher) -> None:
    sealed = cipher.encrypt("name", PLAIN)
    for length in range(len(sealed)):
        with pytest.raises(CorruptRecord):
            cipher.decrypt("name", sealed[:length])


def test_a_value_that_was_added_to_does_not_open(cipher: RecordCipher) -> None:
    with pytest.raises(CorruptRecord, match="authentication"):
        cipher.decrypt("name", cipher.encrypt("name", PLAIN) + b"\0")


class Trap:
    """Whoever unpickles this makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_unpickled(cipher: RecordCipher, tmp_path_factory: pytest.TempPathFactory, protocol: int) -> None:
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
def test_other_formats_are_corrupt(cipher: RecordCipher, value: bytes) -> None:
    with pytest.raises(CorruptRecord, match="format"):
        cipher.decrypt("name", value)


def test_an_older_or_newer_format_is_corrupt(cipher: RecordCipher) -> None:
    sealed = cipher.encrypt("name", PLAIN)
    for version in (b"\x00", b"\x02"):
        with pytest.raises(CorruptRecord, match="format"):
            cipher.decrypt("name", version + sealed[1:])


def test_a_key_that_is_not_held_is_named(cipher: RecordCipher) -> None:
    sealed = RecordCipher(Keyring("encryption", (OTHER_KEY,)), RECORD).encrypt("name", PLAIN)
    with pytest.raises(UnknownKey, match=key_id(OTHER_KEY)):
        cipher.decrypt("name", sealed)


def test_a_value_under_the_wrong_name_of_a_key_does_not_open() -> None:
    ring = Keyring("encryption", (KEY, OTHER_KEY))
    sealed = RecordCipher(ring, RECORD).encrypt("name", PLAIN)
    renamed = sealed[:1] + bytes.fromhex(key_id(OTHER_KEY)) + sealed[9:]
    with pytest.raises(CorruptRecord, match="authentication"):
        RecordCipher(ring, RECORD).decrypt("name", renamed)
