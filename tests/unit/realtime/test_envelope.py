from __future__ import annotations

import pytest

from app.core.keyring import Keyring
from app.core.messages import Message
from app.realtime.envelope import EnvelopeCodec, InvalidEnvelope, channel_of, encode_message, room_of

OLD, NEW = b"s" * 32, b"t" * 32
ROOM = "user:5"
MESSAGES = [Message(ROOM, "news", {"number": 1, "title": "naïve 漢"}), Message(ROOM, "news", {"number": 2})]
ENCODED = [encode_message(message) for message in MESSAGES]
SENDER, OTHER_SENDER = b"me......", b"you....."


def codec(*keys: bytes, sender: bytes = SENDER) -> EnvelopeCodec:
    return EnvelopeCodec(Keyring("signing", keys), sender)


def test_format_of_an_envelope_is_stable() -> None:
    """Instances of older and newer versions run side by side during a deployment."""
    digest = "f76f49107c58a70fcfdc93483534936664001b43373ebbf9fb0f6fb62a34a0c0"
    body = b'me......[["news",{"number":1,"title":"na\xc3\xafve \xe6\xbc\xa2"}],["news",{"number":2}]]'
    assert codec(OLD).seal(ENCODED) == bytes.fromhex(digest) + body
    assert channel_of(ROOM) == "sockets:2:user:5"


def test_envelope_is_opened_with_any_key_of_the_ring() -> None:
    sealed = codec(OLD).seal(ENCODED)
    assert codec(OLD).open(ROOM, sealed) == codec(NEW, OLD).open(ROOM, sealed) == MESSAGES
    with pytest.raises(InvalidEnvelope, match="signature"):
        codec(NEW).open(ROOM, sealed)


def test_sender_recognizes_its_own_envelope() -> None:
    sealed = codec(OLD).seal(ENCODED)
    assert codec(OLD).is_own(sealed)
    assert not codec(OLD, sender=OTHER_SENDER).is_own(sealed)


@pytest.mark.parametrize("position", [0, 31, 32, 39, 40, -1])
def test_modified_envelope_is_rejected(position: int) -> None:
    sealed = bytearray(codec(OLD).seal(ENCODED))
    sealed[position] ^= 1
    with pytest.raises(InvalidEnvelope, match="signature"):
        codec(OLD).open(ROOM, bytes(sealed))


@pytest.mark.parametrize("short", [b"", b"x", bytes(32), bytes(40)])
def test_truncated_envelope_is_rejected(short: bytes) -> None:
    with pytest.raises(InvalidEnvelope, match="signature"):
        codec(OLD).open(ROOM, short)
    assert not codec(OLD).is_own(short)


@pytest.mark.parametrize("content", [b"", b"7", b'"news", {}', b'["news"]', b'["news", 7]', b'["\xff", {}]', b"[" * 100_000])
def test_signed_envelope_that_cannot_be_decoded_is_rejected(content: bytes) -> None:
    with pytest.raises(InvalidEnvelope, match="content"):
        codec(OLD).open(ROOM, codec(OLD).seal([content, content]))


def test_channel_name_contains_the_room() -> None:
    assert room_of(channel_of(ROOM).encode()) == ROOM
