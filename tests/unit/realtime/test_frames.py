"""Cases after those of the Autobahn test suite, by their numbers there."""

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
    Fault,
    FrameReader,
    close_code,
    close_frame,
    frame,
)

LIMIT = 70_000
MASK = b"\x01\x80\xff\x37"
NOTHING = (CONTINUATION, b"")  # of a part that is not the last


def masked(opcode: int, payload: bytes = b"", *, final: bool = True, reserved: int = 0, mask: bytes = MASK) -> bytes:
    """As a client sends it."""
    sent = bytearray(frame(opcode, payload))
    head = len(sent) - len(payload)
    sent[0] = (0x80 if final else 0) | reserved | opcode
    sent[1] |= 0x80
    return bytes(sent[:head]) + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def read(data: bytes, size: int = 1 << 20) -> list[tuple[int, bytes]]:
    """What comes of it, if it comes in parts of such a size; without the parts of messages."""
    reader = FrameReader(LIMIT)
    parts = (data[start : start + size] for start in range(0, len(data), size))
    return [received for part in parts for received in reader.feed(part) if received != NOTHING]


def fault(data: bytes) -> int:
    with pytest.raises(Fault) as raised:
        read(data)
    return raised.value.code


CONVERSATION = b"".join([
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
HEARD = [
    (TEXT, b"hello"), (PING, b"beat"), (PONG, b""), (TEXT, b"in three parts"), (BINARY, bytes(300)), (TEXT, b""),
    (CLOSE, b"\x03\xe8bye"),
]  # fmt: skip


def test_a_conversation_may_be_cut_anywhere() -> None:
    assert all(read(CONVERSATION, size) == HEARD for size in range(1, len(CONVERSATION) + 1))
    for cut in range(len(CONVERSATION) + 1):
        reader = FrameReader(LIMIT)
        heard = [*reader.feed(CONVERSATION[:cut]), *reader.feed(CONVERSATION[cut:])]
        assert [received for received in heard if received != NOTHING] == HEARD


# 1: sizes, at which the form of the length changes
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 126, 127, 128, 65535, 65536, LIMIT])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_messages_of_any_size(opcode: int, size: int) -> None:
    payload = os.urandom(size)
    assert read(masked(opcode, payload), 997) == [(opcode, payload)]
    assert len(frame(opcode, payload)) - size == (2 if size < 126 else 4 if size < 65536 else 10)


# 2: pings and pongs
def test_control_frames_are_short() -> None:
    assert read(masked(PING, bytes(125))) == [(PING, bytes(125))]
    assert fault(masked(PING, bytes(126))) == PROTOCOL_ERROR
    assert fault(masked(CLOSE, bytes(126))) == PROTOCOL_ERROR


# 3: reserved bits
@pytest.mark.parametrize("reserved", [0x10, 0x20, 0x40, 0x70])
@pytest.mark.parametrize("opcode", [TEXT, PING, CLOSE])
def test_extensions_have_not_been_agreed_on(opcode: int, reserved: int) -> None:
    assert fault(masked(opcode, b"x", reserved=reserved)) == PROTOCOL_ERROR


# 4: opcodes
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_other_opcodes_are_unknown(opcode: int) -> None:
    assert fault(masked(opcode, b"x")) == PROTOCOL_ERROR


# 5: parts
@pytest.mark.parametrize(
    "data",
    [
        masked(PING, b"x", final=False),
        masked(CONTINUATION, b"of nothing"),
        masked(CONTINUATION, b"of nothing", final=False),
        masked(TEXT, b"a", final=False) + masked(TEXT, b"b"),
        masked(TEXT, b"a", final=False) + masked(BINARY, b"b", final=False),
        masked(TEXT, b"a", final=False) + masked(CONTINUATION, b"b") + masked(CONTINUATION, b"c"),
    ],
)
def test_parts_out_of_order(data: bytes) -> None:
    assert fault(data) == PROTOCOL_ERROR


def test_empty_parts_are_parts() -> None:
    empty = masked(CONTINUATION, final=False)
    assert read(masked(TEXT, final=False) + empty + empty + masked(CONTINUATION)) == [(TEXT, b"")]


# 6: UTF-8, of a message as a whole
def test_a_letter_may_be_divided_between_parts() -> None:
    letters = "κόσμε 🙂".encode()
    for cut in range(len(letters)):
        ((opcode, payload),) = read(masked(TEXT, letters[:cut], final=False) + masked(CONTINUATION, letters[cut:]))
        assert (opcode, frames.text(payload)) == (TEXT, "κόσμε 🙂")


@pytest.mark.parametrize("payload", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xce\xba\xe1\xbd", b"a\x80"])
def test_what_is_no_utf_8(payload: bytes) -> None:
    with pytest.raises(Fault) as raised:
        frames.text(payload)
    assert raised.value.code == NOT_UTF8


# 7: closing
@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
def test_codes_that_may_be_sent(code: int) -> None:
    assert read(masked(CLOSE, code.to_bytes(2, "big"))) == [(CLOSE, code.to_bytes(2, "big"))]
    assert close_code(code.to_bytes(2, "big") + "ok ✓".encode()) == code
    assert close_frame(code, "ok") == bytes([0x88, 4]) + code.to_bytes(2, "big") + b"ok"


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_codes_that_may_not_be_sent(code: int) -> None:
    with pytest.raises(Fault) as raised:
        close_code(code.to_bytes(2, "big"))
    assert raised.value.code == PROTOCOL_ERROR


@pytest.mark.parametrize(("payload", "code"), [(b"\x03", PROTOCOL_ERROR), (b"\x03\xe8\xff", NOT_UTF8)])
def test_broken_words_at_the_end(payload: bytes, code: int) -> None:
    with pytest.raises(Fault) as raised:
        close_code(payload)
    assert raised.value.code == code
    assert close_code(b"") == NORMAL


# 9: limits
def test_what_is_too_long_is_refused_before_it_has_come() -> None:
    assert fault(masked(TEXT, bytes(LIMIT + 1))[:14]) == TOO_BIG
    assert fault(bytes([0x82, 0xFF]) + (2**63).to_bytes(8, "big")) == TOO_BIG
    begun = masked(TEXT, bytes(LIMIT - 1), final=False)
    assert read(begun + masked(PING, bytes(100)) + masked(CONTINUATION, b"x")) == [
        (PING, bytes(100)),
        (TEXT, bytes(LIMIT - 1) + b"x"),
    ]
    assert fault(begun + masked(CONTINUATION, b"xx")[:6]) == TOO_BIG


def test_a_client_masks() -> None:
    assert fault(frame(TEXT, b"hello")) == PROTOCOL_ERROR


@pytest.mark.parametrize("head", [b"\x81\xfe\x00\x7d", b"\x81\xff" + (65535).to_bytes(8, "big")])
def test_a_length_has_its_shortest_form(head: bytes) -> None:
    assert fault(head) == PROTOCOL_ERROR


def test_nothing_is_kept_of_what_has_been_read() -> None:
    reader = FrameReader(LIMIT)
    for _ in range(100):
        assert list(reader.feed(masked(TEXT, bytes(LIMIT)))) == [(TEXT, bytes(LIMIT))]
    assert (len(reader._buffer), len(reader._parts)) == (0, 0)


MESSAGES = st.lists(
    st.tuples(st.sampled_from([TEXT, BINARY]), st.lists(st.binary(max_size=300), min_size=1, max_size=4)), max_size=5
)


@given(messages=MESSAGES, mask=st.binary(min_size=4, max_size=4), size=st.integers(1, 400))
def test_any_messages_in_any_parts(messages: list[tuple[int, list[bytes]]], mask: bytes, size: int) -> None:
    data = bytearray()
    for opcode, parts in messages:
        for index, part in enumerate(parts):
            data += masked(CONTINUATION if index else opcode, part, final=index == len(parts) - 1, mask=mask)
            data += masked(PING, part[:125], mask=mask)
    heard = read(bytes(data), size)
    assert [(opcode, payload) for opcode, payload in heard if opcode != PING] == [
        (opcode, b"".join(parts)) for opcode, parts in messages
    ]
    assert [payload for opcode, payload in heard if opcode == PING] == [
        part[:125] for part in itertools.chain(*(parts for _, parts in messages))
    ]


@given(st.binary(max_size=2000))
def test_noise_is_a_fault_or_nothing(noise: bytes) -> None:
    with suppress(Fault):
        assert all(len(payload) <= LIMIT for _, payload in read(noise))
