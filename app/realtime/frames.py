"""The frames of a WebSocket (RFC 6455), as a server sees them: masked, without extensions, and bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NORMAL, PROTOCOL_ERROR, NOT_UTF8, POLICY_VIOLATION, TOO_BIG = 1000, 1002, 1007, 1008, 1009

FINAL, RESERVED, OPCODE = 0x80, 0x70, 0x0F  # of the first byte
MASKED, LENGTH = 0x80, 0x7F  # of the second
TWO_BYTES, EIGHT_BYTES = 126, 127  # lengths that stand for longer ones, which follow
MAX_CONTROL_BYTES = 125
MASK_BYTES = 4
CLOSE_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}  # that may be sent


class Fault(Exception):
    """What a client must not do."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Frame(NamedTuple):
    opcode: int
    is_final: bool
    payload: bytes


class FrameReader:
    """Puts together what comes in parts of any size."""

    __slots__ = ("_buffer", "_max_bytes", "_opcode", "_parts")

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: of a message."""
        self._max_bytes = max_bytes
        self._buffer = bytearray()  # less than a frame
        self._opcode = 0  # of the message that has begun; 0: there is none
        self._parts = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The opcode and the payload of each frame that is complete now. Raises Fault.

        Of a message in parts all but the last are CONTINUATION without a payload; the last has all of it.
        """
        self._buffer += data
        while frame := self._next():
            yield (frame.opcode, frame.payload) if frame.opcode >= CLOSE else self._add(frame)

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length, start = self._judge(buffer[0], buffer[1]), 2
        if length >= TWO_BYTES:
            start = 4 if length == TWO_BYTES else 10
            if len(buffer) < start:
                return None
            length = _extended(buffer[2:start])
        if buffer[0] & OPCODE < CLOSE and length > self._max_bytes - len(self._parts):
            raise Fault(TOO_BIG, "too long")
        end = start + MASK_BYTES + length
        if len(buffer) < end:
            return None
        frame = Frame(buffer[0] & OPCODE, bool(buffer[0] & FINAL), _unmasked(buffer[start:end]))
        del buffer[:end]
        return frame

    def _judge(self, first: int, second: int) -> int:
        """Returns the length that the second byte tells."""
        opcode, length = first & OPCODE, second & LENGTH
        if first & RESERVED:
            raise Fault(PROTOCOL_ERROR, "an extension that was not agreed on")
        if not second & MASKED:
            raise Fault(PROTOCOL_ERROR, "not masked")
        if BINARY < opcode < CLOSE or opcode > PONG:
            raise Fault(PROTOCOL_ERROR, "unknown opcode")
        if opcode >= CLOSE and (length > MAX_CONTROL_BYTES or not first & FINAL):
            raise Fault(PROTOCOL_ERROR, "a control frame is short and whole")
        if opcode < CLOSE and (opcode == CONTINUATION) != bool(self._opcode):
            raise Fault(PROTOCOL_ERROR, "parts of messages out of order")
        return length

    def _add(self, frame: Frame) -> tuple[int, bytes]:
        opcode, payload = frame.opcode or self._opcode, self._parts + frame.payload
        if not frame.is_final:
            self._opcode, self._parts = opcode, payload
            return CONTINUATION, b""
        self._opcode, self._parts = 0, b""
        return opcode, payload


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """As a server sends it: whole, and without a mask."""
    length = len(payload)
    if length < TWO_BYTES:
        head = bytes((FINAL | opcode, length))
    elif length < 2**16:
        head = bytes((FINAL | opcode, TWO_BYTES)) + length.to_bytes(2, "big")
    else:
        head = bytes((FINAL | opcode, EIGHT_BYTES)) + length.to_bytes(8, "big")
    return head + payload


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def close_code(payload: bytes) -> int:
    """Of a close frame that came; NORMAL where it names none. Raises Fault."""
    if not payload:
        return NORMAL
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or code not in CLOSE_CODES:
        raise Fault(PROTOCOL_ERROR, "not a code")
    text(payload[2:])
    return code


def text(payload: bytes) -> str:
    """Raises Fault."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise Fault(NOT_UTF8, "not UTF-8") from None


def _extended(data: bytearray) -> int:
    length = int.from_bytes(data, "big")
    if length < (TWO_BYTES if len(data) == 2 else 2**16):
        raise Fault(PROTOCOL_ERROR, "not the shortest form of a length")
    return length


def _unmasked(data: bytearray) -> bytes:
    """`data`: the mask, and what it was laid over. As one large number each, which is the fastest way in Python."""
    mask, length = data[:MASK_BYTES], len(data) - MASK_BYTES
    pattern = (mask * (length // MASK_BYTES + 1))[:length]
    return (int.from_bytes(data[MASK_BYTES:], "big") ^ int.from_bytes(pattern, "big")).to_bytes(length, "big")
