"""The comments give the numbers of the corresponding cases of the Autobahn test suite."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.realtime import frames
from app.realtime.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NORMAL,
    NOT_UTF8,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    FrameReader,
    WebSocketError,
    encode_close,
    encode_frame,
    parse_close_code,
)

LIMIT = 70_000
MASK = b"\x01\x80\xff\x37"
FRAGMENT = (CONTINUATION, b"")  # yielded for a fragment that is not the last


def masked(opcode: int, payload: bytes = b"", *, final: bool = True, reserved: int = 0, mask: bytes = MASK) -> bytes:
    """A frame as a client sends it."""
    sent = bytearray(encode_frame(opcode, payload))
    head = len(sent) - len(payload)
    sent[0] = (0x80 if final else 0) | reserved | opcode
    sent[1] |= 0x80
    return bytes(sent[:head]) + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def read(data: bytes, size: int = 1 << 20) -> list[tuple[int, bytes]]:
    """The complete messages and control frames in data that arrives in pieces of `size` bytes."""
    reader = FrameReader(LIMIT)
    pieces = (data[start : start + size] for start in range(0, len(data), size))
    return [received for piece in pieces for received in reader.feed(piece) if received != FRAGMENT]


def close_code_for(data: bytes) -> int:
    with pytest.raises(WebSocketError) as raised:
        read(data)
    return raised.value.code


STREAM = b"".join([
    masked(TEXT, b"hello"),
    masked(PING, b"beat"),
    masked(TEXT, b"in ", final=False),
    masked(PONG),
    masked(CONTINUATION, b"three ", final=False),
    masked(CONTINUATION, b"parts"),
    masked(BINARY, bytes(300)),
    masked(TEXT),
    masked(CLOSE, b"\x03\xe8bye"),
])  # fmt: skip
RECEIVED = [
    (TEXT, b"hello"), (PING, b"beat"), (PONG, b""), (TEXT, b"in three parts"), (BINARY, bytes(300)), (TEXT, b""),
    (CLOSE, b"\x03\xe8bye"),
]  # fmt: skip


def test_stream_may_be_split_anywhere() -> None:
    assert all(read(STREAM, size) == RECEIVED for size in range(1, len(STREAM) + 1))
    for split in range(len(STREAM) + 1):
        reader = FrameReader(LIMIT)
        received_frames = [*reader.feed(STREAM[:split]), *reader.feed(STREAM[split:])]
        assert [received for received in received_frames if received != FRAGMENT] == RECEIVED


# 1: the sizes at which the encoding of the length changes
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 126, 127, 128, 65535, 65536, LIMIT])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_messages_of_any_size(opcode: int, size: int) -> None:
    payload = os.urandom(size)
    assert read(masked(opcode, payload), 997) == [(opcode, payload)]
    assert len(encode_frame(opcode, payload)) - size == (2 if size < 126 else 4 if size < 65536 else 10)


# 2: pings and pongs
def test_control_frame_over_125_bytes_is_an_error() -> None:
    assert read(masked(PING, bytes(125))) == [(PING, bytes(125))]
    assert close_code_for(masked(PING, bytes(126))) == PROTOCOL_ERROR
    assert close_code_for(masked(CLOSE, bytes(126))) == PROTOCOL_ERROR


# 3: reserved bits
@pytest.mark.parametrize("reserved", [0x10, 0x20, 0x40, 0x70])
@pytest.mark.parametrize("opcode", [TEXT, PING, CLOSE])
def test_reserved_bits_are_an_error(opcode: int, reserved: int) -> None:
    assert close_code_for(masked(opcode, b"x", reserved=reserved)) == PROTOCOL_ERROR


# 4: opcodes
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_unknown_opcode_is_an_error(opcode: int) -> None:
    assert close_code_for(masked(opcode, b"x")) == PROTOCOL_ERROR


# 5: fragmentation
@pytest.mark.parametrize(
    "data",
    [
        masked(PING, b"x", final=False),
        masked(CONTINUATION, b"without a start"),
        masked(CONTINUATION, b"without a start", final=False),
        masked(TEXT, b"a", final=False) + masked(TEXT, b"b"),
        masked(TEXT, b"a", final=False) + masked(BINARY, b"b", final=False),
        masked(TEXT, b"a", final=False) + masked(CONTINUATION, b"b") + masked(CONTINUATION, b"c"),
    ],
)
def test_fragments_out_of_order_are_an_error(data: bytes) -> None:
    assert close_code_for(data) == PROTOCOL_ERROR


def test_fragments_may_be_empty() -> None:
    empty = masked(CONTINUATION, final=False)
    assert read(masked(TEXT, final=False) + empty + empty + masked(CONTINUATION)) == [(TEXT, b"")]


# 6: UTF-8, of a message as a whole
def test_character_may_be_split_between_fragments() -> None:
    letters = "κόσμε 🙂".encode()
    for split in range(len(letters)):
        ((opcode, payload),) = read(masked(TEXT, letters[:split], final=False) + masked(CONTINUATION, letters[split:]))
        assert (opcode, frames.decode_text(payload)) == (TEXT, "κόσμε 🙂")


@pytest.mark.parametrize("payload", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xce\xba\xe1\xbd", b"a\x80"])
def test_invalid_utf_8_is_an_error(payload: bytes) -> None:
    with pytest.raises(WebSocketError) as raised:
        frames.decode_text(payload)
    assert raised.value.code == NOT_UTF8


# 7: closing
@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
def test_valid_close_codes(code: int) -> None:
    assert read(masked(CLOSE, code.to_bytes(2, "big"))) == [(CLOSE, code.to_bytes(2, "big"))]
    assert parse_close_code(code.to_bytes(2, "big") + "ok ✓".encode()) == code
    assert encode_close(code, "ok") == bytes([0x88, 4]) + code.to_bytes(2, "big") + b"ok"


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_invalid_close_codes_are_an_error(code: int) -> None:
    with pytest.raises(WebSocketError) as raised:
        parse_close_code(code.to_bytes(2, "big"))
    assert raised.value.code == PROTOCOL_ERROR


@pytest.mark.parametrize(("payload", "code"), [(b"\x03", PROTOCOL_ERROR), (b"\x03\xe8\xff", NOT_UTF8)])
def test_invalid_close_payload_is_an_error(payload: bytes, code: int) -> None:
    with pytest.raises(WebSocketError) as raised:
        parse_close_code(payload)
    assert raised.value.code == code
    assert parse_close_code(b"") == NORMAL


# 9: limits
def test_too_big_message_is_rejected_by_its_length() -> None:
    assert close_code_for(masked(TEXT, bytes(LIMIT + 1))[:14]) == TOO_BIG
    assert close_code_for(bytes([0x82, 0xFF]) + (2**63).to_bytes(8, "big")) == TOO_BIG
    begun = masked(TEXT, bytes(LIMIT - 1), final=False)
    assert read(begun + masked(PING, bytes(100)) + masked(CONTINUATION, b"x")) == [
        (PING, bytes(100)),
        (TEXT, bytes(LIMIT - 1) + b"x"),
    ]
    assert close_code_for(begun + masked(CONTINUATION, b"xx")[:6]) == TOO_BIG


def test_unmasked_frame_is_an_error() -> None:
    assert close_code_for(encode_frame(TEXT, b"hello")) == PROTOCOL_ERROR


@pytest.mark.parametrize("head", [b"\x81\xfe\x00\x7d", b"\x81\xff" + (65535).to_bytes(8, "big")])
def test_length_not_in_its_shortest_form_is_an_error(head: bytes) -> None:
    assert close_code_for(head) == PROTOCOL_ERROR


def test_reader_keeps_no_data_after_a_message() -> None:
    reader = FrameReader(LIMIT)
    for _ in range(100):
        assert list(reader.feed(masked(TEXT, bytes(LIMIT)))) == [(TEXT, bytes(LIMIT))]
    assert (len(reader._buffer), len(reader._fragments)) == (0, 0)


MESSAGES = st.lists(
    st.tuples(st.sampled_from([TEXT, BINARY]), st.lists(st.binary(max_size=300), min_size=1, max_size=4)), max_size=5
)


@given(messages=MESSAGES, mask=st.binary(min_size=4, max_size=4), size=st.integers(1, 400))
def test_random_messages_in_random_pieces(messages: list[tuple[int, list[bytes]]], mask: bytes, size: int) -> None:
    data = bytearray()
    for opcode, parts in messages:
        for index, part in enumerate(parts):
            data += masked(CONTINUATION if index else opcode, part, final=index == len(parts) - 1, mask=mask)
            data += masked(PING, part[:125], mask=mask)
    received_frames = read(bytes(data), size)
    assert [(opcode, payload) for opcode, payload in received_frames if opcode != PING] == [
        (opcode, b"".join(parts)) for opcode, parts in messages
    ]
    assert [payload for opcode, payload in received_frames if opcode == PING] == [
        part[:125] for part in itertools.chain(*(parts for _, parts in messages))
    ]


@given(st.binary(max_size=2000))
def test_random_bytes_are_an_error_or_incomplete(data: bytes) -> None:
    with suppress(WebSocketError):
        assert all(len(payload) <= LIMIT for _, payload in read(data))
