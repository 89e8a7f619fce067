"""The packets that clients may send. All others are rejected before they reach a handler."""

from typing import Any

import msgspec
from engineio.packet import CLOSE, MESSAGE, PING, PONG, UPGRADE
from engineio.packet import Packet as EnginePacket
from engineio.payload import Payload
from socketio.packet import CONNECT, DISCONNECT, EVENT, Packet

RESERVED_EVENTS = ("connect", "disconnect")  # python-socketio would call these handlers for a client's event too

_encode = msgspec.json.Encoder().encode


class MalformedPacket(ValueError):
    pass


class ClientPacket(Packet):  # type: ignore[misc] # python-socketio has no type hints
    """Rejects binary attachments, whose number is unlimited, and acknowledgements, which the server never requests."""

    def decode(self, encoded_packet: Any) -> int:
        try:
            attachments = super().decode(encoded_packet)
        except (ValueError, TypeError, RecursionError):
            raise MalformedPacket from None
        if attachments or self.packet_type not in (CONNECT, DISCONNECT, EVENT):
            raise MalformedPacket
        if self.packet_type == EVENT and not _is_event(self.data):
            raise MalformedPacket
        return 0


def encode_event(name: str, data: dict[str, Any]) -> EnginePacket:
    """Return an event that can be sent to any number of clients. Takes 1 us instead of the 9 us of python-socketio."""
    return EnginePacket(MESSAGE, f"{EVENT}{_encode((name, data)).decode()}")


def _is_event(data: Any) -> bool:
    return isinstance(data, list) and bool(data) and isinstance(data[0], str) and data[0] not in RESERVED_EVENTS


def parse_engine_packet(message: str | bytes) -> EnginePacket | None:
    """Return the packet in a WebSocket message, or None if a client may not send it."""
    try:
        packet = EnginePacket(encoded_packet=message)
    except (ValueError, RecursionError):
        return None
    return packet if _is_allowed(packet, PING) else None


def is_valid_payload(body: bytes) -> bool:
    """Whether the body of a polling POST contains only packets that a client may send."""
    try:
        return all(map(_is_allowed, Payload(encoded_payload=body.decode()).packets))
    except (ValueError, LookupError, RecursionError):
        return False


def _is_allowed(packet: EnginePacket, *more_types: int) -> bool:
    if packet.packet_type == MESSAGE:
        return isinstance(packet.data, str) and bool(packet.data)
    return packet.packet_type in (CLOSE, PONG, UPGRADE, *more_types)
