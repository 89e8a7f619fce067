from __future__ import annotations

import pytest

from app.core.keyring import Keyring
from app.realtime.envelope import EnvelopeCodec, channel_of, encode, room_of

OLD, NEW = b"s" * 32, b"t" * 32
CONTENTS = [encode(("news", {"number": 1, "title": "naïve 漢"})), encode(("news", {"number": 2}))]
ME, YOU = b"me......", b"you....."


def envelopes(*keys: bytes, sender: bytes = ME) -> EnvelopeCodec:
    return EnvelopeCodec(Keyring("signing", keys), sender)


def test_what_was_sealed_can_be_opened_by_who_holds_the_key() -> None:
    sealed = envelopes(OLD).seal(CONTENTS)
    expected = [("news", {"number": 1, "title": "naïve 漢"}), ("news", {"number": 2})]
    assert envelopes(OLD).open(sealed) == envelopes(NEW, OLD).open(sealed) == expected
    assert envelopes(NEW).open(sealed) is None


def test_one_knows_what_one_said_oneself() -> None:
    sealed = envelopes(OLD).seal(CONTENTS)
    assert envelopes(OLD).is_own(sealed)
    assert not envelopes(OLD, sender=YOU).is_own(sealed)


@pytest.mark.parametrize("place", [0, 31, 32, 39, 40, -1])
def test_no_byte_can_be_changed(place: int) -> None:
    sealed = bytearray(envelopes(OLD).seal(CONTENTS))
    sealed[place] ^= 1
    assert envelopes(OLD).open(bytes(sealed)) is None


@pytest.mark.parametrize("short", [b"", b"x", bytes(32), bytes(40)])
def test_what_is_too_short_is_no_envelope(short: bytes) -> None:
    assert envelopes(OLD).open(short) is None
    assert not envelopes(OLD).is_own(short)


def test_a_channel_leads_back_to_its_room() -> None:
    assert room_of(channel_of("user:5").encode()) == "user:5"
