"""WebSocket frames (RFC 6455) on the server's side: masked when received, without extensions, and limited in size."""

from collections.abc import Iterator
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NORMAL, PROTOCOL_ERROR, NOT_UTF8, POLICY_VIOLATION, TOO_BIG = 1000, 1002, 1007, 1008, 1009

FINAL, RESERVED, OPCODE = 0x80, 0x70, 0x0F  # bits of the first byte
MASKED, LENGTH = 0x80, 0x7F  # bits of the second byte
TWO_BYTES, EIGHT_BYTES = 126, 127  # values of LENGTH if the length follows in two or eight bytes
MAX_CONTROL_BYTES = 125
MASK_BYTES = 4
CLOSE_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}  # valid in a close frame


class WebSocketError(Exception):
    """A violation of the protocol or of a limit by the client. `code` is the close code to send."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Frame(NamedTuple):
    opcode: int
    is_final: bool
    payload: bytes


class FrameReader:
    """Assembles frames and messages from received bytes. `max_bytes` limits a message."""

    __slots__ = ("_buffer", "_fragments", "_max_bytes", "_opcode")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()  # an incomplete frame
        self._opcode = 0  # of the fragmented message in progress; 0 if there is none
        self._fragments = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the opcode and payload of each frame that is now complete. Raises WebSocketError.

        In a fragmented message, all frames but the last yield CONTINUATION without a payload; the last yields the whole message.
        """
        self._buffer += data
        while frame := self._next_frame():
            yield (frame.opcode, frame.payload) if frame.opcode >= CLOSE else self._add(frame)

    def _next_frame(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length, start = self._check_head(buffer[0], buffer[1]), 2
        if length >= TWO_BYTES:
            start = 4 if length == TWO_BYTES else 10
            if len(buffer) < start:
                return None
            length = _extended_length(buffer[2:start])
        if buffer[0] & OPCODE < CLOSE and length > self._max_bytes - len(self._fragments):
            raise WebSocketError(TOO_BIG, "message too big")
        end = start + MASK_BYTES + length
        if len(buffer) < end:
            return None
        frame = Frame(buffer[0] & OPCODE, bool(buffer[0] & FINAL), _unmask(buffer[start:end]))
        del buffer[:end]
        return frame

    def _check_head(self, first: int, second: int) -> int:
        """Return the length in the second byte."""
        opcode, length = first & OPCODE, second & LENGTH
        if first & RESERVED:
            raise WebSocketError(PROTOCOL_ERROR, "extension not negotiated")
        if not second & MASKED:
            raise WebSocketError(PROTOCOL_ERROR, "frame not masked")
        if BINARY < opcode < CLOSE or opcode > PONG:
            raise WebSocketError(PROTOCOL_ERROR, "unknown opcode")
        if opcode >= CLOSE and (length > MAX_CONTROL_BYTES or not first & FINAL):
            raise WebSocketError(PROTOCOL_ERROR, "control frame too long or fragmented")
        if opcode < CLOSE and (opcode == CONTINUATION) != bool(self._opcode):
            raise WebSocketError(PROTOCOL_ERROR, "fragments out of order")
        return length

    def _add(self, frame: Frame) -> tuple[int, bytes]:
        opcode, payload = frame.opcode or self._opcode, self._fragments + frame.payload
        if not frame.is_final:
            self._opcode, self._fragments = opcode, payload
            return CONTINUATION, b""
        self._opcode, self._fragments = 0, b""
        return opcode, payload


def encode_frame(opcode: int, payload: bytes = b"") -> bytes:
    """Return a frame that is not fragmented and, as required of a server, not masked."""
    length = len(payload)
    if length < TWO_BYTES:
        head = bytes((FINAL | opcode, length))
    elif length < 2**16:
        head = bytes((FINAL | opcode, TWO_BYTES)) + length.to_bytes(2, "big")
    else:
        head = bytes((FINAL | opcode, EIGHT_BYTES)) + length.to_bytes(8, "big")
    return head + payload


def encode_close(code: int, reason: str = "") -> bytes:
    return encode_frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def parse_close_code(payload: bytes) -> int:
    """Return the code of a received close frame, or NORMAL if it has none. Raises WebSocketError."""
    if not payload:
        return NORMAL
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or code not in CLOSE_CODES:
        raise WebSocketError(PROTOCOL_ERROR, "invalid close code")
    decode_text(payload[2:])
    return code


def decode_text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise WebSocketError(NOT_UTF8, "invalid UTF-8") from None


def _extended_length(data: bytearray) -> int:
    length = int.from_bytes(data, "big")
    if length < (TWO_BYTES if len(data) == 2 else 2**16):
        raise WebSocketError(PROTOCOL_ERROR, "length not encoded in its shortest form")
    return length


def _unmask(data: bytearray) -> bytes:
    """Apply the mask, which is the first four bytes. A XOR of two large integers is the fastest way in Python."""
    mask, length = data[:MASK_BYTES], len(data) - MASK_BYTES
    pattern = (mask * (length // MASK_BYTES + 1))[:length]
    return (int.from_bytes(data[MASK_BYTES:], "big") ^ int.from_bytes(pattern, "big")).to_bytes(length, "big")
