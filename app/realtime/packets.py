"""What clients may say. All else is broken or hostile, and is found out before it reaches a handler."""

from __future__ import annotations

from typing import Any

import msgspec
from engineio.packet import CLOSE, MESSAGE, PING, PONG, UPGRADE
from engineio.packet import Packet as EnginePacket
from engineio.payload import Payload
from socketio.packet import CONNECT, DISCONNECT, EVENT, Packet

RESERVED = ("connect", "disconnect")  # names of handlers that python-socketio would call for a client's event as well


_encode = msgspec.json.Encoder().encode


class Malformed(ValueError):
    pass


class ClientPacket(Packet):  # type: ignore[misc] # python-socketio has no type hints
    """Neither binary attachments, of which there is no limit, nor acknowledgements, which nobody asks for."""

    def decode(self, encoded_packet: Any) -> int:
        try:
            attachments = super().decode(encoded_packet)
        except (ValueError, TypeError, RecursionError):
            raise Malformed from None
        if attachments or self.packet_type not in (CONNECT, DISCONNECT, EVENT):
            raise Malformed
        if self.packet_type == EVENT and not _is_event(self.data):
            raise Malformed
        return 0


def event(name: str, data: dict[str, Any]) -> EnginePacket:
    """An event for a client, encoded; may be sent to any number of them. 1 us, where Socket.IO's own way takes 9."""
    return EnginePacket(MESSAGE, f"{EVENT}{_encode((name, data)).decode()}")


def _is_event(data: Any) -> bool:
    return isinstance(data, list) and bool(data) and isinstance(data[0], str) and data[0] not in RESERVED


def engine_packet(message: str | bytes) -> EnginePacket | None:
    """What a client sends over a WebSocket; None: it must not."""
    try:
        packet = EnginePacket(encoded_packet=message)
    except (ValueError, RecursionError):
        return None
    return packet if _is_from_client(packet, PING) else None


def is_engine_payload(body: bytes) -> bool:
    """What a polling client sends at once."""
    try:
        return all(map(_is_from_client, Payload(encoded_payload=body.decode()).packets))
    except (ValueError, LookupError, RecursionError):
        return False


def _is_from_client(packet: EnginePacket, *also: int) -> bool:
    if packet.packet_type == MESSAGE:
        return isinstance(packet.data, str) and bool(packet.data)
    return packet.packet_type in (CLOSE, PONG, UPGRADE, *also)
