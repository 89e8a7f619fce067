from __future__ import annotations

import pytest

from app.core.keyring import Keyring, key_id
from app.sessions import cookie

NEW, OLD, FOREIGN = b"n" * 32, b"o" * 32, b"f" * 32


@pytest.fixture
def ring() -> Keyring:
    return Keyring("signing", (NEW, OLD))


def test_session_ids_have_256_bits_and_are_unique() -> None:
    ids = {cookie.new_session_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(session_id) for session_id in ids} == {43}


def test_signed_value_is_returned_with_its_key_id(ring: Keyring) -> None:
    session_id = cookie.new_session_id()
    assert cookie.read_session_id(ring, cookie.sign(ring, session_id)) == (session_id, key_id(NEW))
    older = Keyring("signing", (OLD,))
    assert cookie.read_session_id(ring, cookie.sign(older, session_id)) == (session_id, key_id(OLD))


def test_active_key_signs(ring: Keyring) -> None:
    ring.apply_fleet_state(key_id(OLD), frozenset(ring.ids))
    signed = cookie.sign(ring, cookie.new_session_id())
    assert cookie.read_session_id(Keyring("signing", (OLD,)), signed)


def test_signature_of_an_unknown_key_is_rejected(ring: Keyring) -> None:
    assert cookie.read_session_id(ring, cookie.sign(Keyring("signing", (FOREIGN,)), cookie.new_session_id())) is None


def test_each_changed_character_is_detected(ring: Keyring) -> None:
    session_id = cookie.new_session_id()
    signed = cookie.sign(ring, session_id)
    # The last character of a signature in base64 has bits that say nothing; then it is still this very id.
    for position in range(len(signed)):
        changed = signed[:position] + ("A" if signed[position] != "A" else "B") + signed[position + 1 :]
        assert cookie.read_session_id(ring, changed) in (None, *[(session_id, key_id(NEW))] * (position == len(signed) - 1))


@pytest.mark.parametrize("text", ["", ".", "a.b", "\x00", "ä.ö", "\ud800", "A" * 43, "A" * 43 + ".", "." * 1000])
def test_unsigned_text_is_rejected(ring: Keyring, text: str) -> None:
    assert cookie.read_session_id(ring, text) is None


@pytest.mark.parametrize("session_id", ["", "A" * 42, "A" * 44, "A" * 42 + "/", "../" * 14 + "A", "A" * 43 + "\n"])
def test_signed_text_that_is_not_an_id_is_rejected(ring: Keyring, session_id: str) -> None:
    assert cookie.read_session_id(ring, cookie.sign(ring, session_id)) is None


def test_signature_is_valid_for_one_purpose(ring: Keyring) -> None:
    session_id = cookie.new_session_id()
    device = cookie.sign(ring, session_id, "device")
    assert cookie.read_signed(ring, device, "device") == (session_id, key_id(NEW))
    assert cookie.read_session_id(ring, device) is None
