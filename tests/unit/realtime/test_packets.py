from __future__ import annotations

import pytest

from app.realtime.packets import ClientPacket, MalformedPacket, is_valid_payload, parse_engine_packet


@pytest.mark.parametrize("text", ["0", '0{"after":7}', "1", '2["sync",{"after":0}]', '213["watch",{}]', '2["other"]'])
def test_client_packets_are_accepted(text: str) -> None:
    assert ClientPacket(encoded_packet=text).attachments == []


@pytest.mark.parametrize(
    "text",
    [
        "x", "8", "2", "2{}", "2[]", "2[1]", '2["sync"', "2" + "[" * 50_000, "3[]", "4{}", '52-["a"]', '2["connect"]',
        '2["disconnect"]', {"a": 1}, b"2[]",
    ],
)  # fmt: skip
def test_other_packets_are_malformed(text: object) -> None:
    with pytest.raises(MalformedPacket):
        ClientPacket(encoded_packet=text)


@pytest.mark.parametrize(
    ("message", "over_websocket", "by_polling"),
    [
        ("2probe", True, False),
        ("3", True, True),
        ("5", True, True),
        ("1", True, True),
        ("40", True, True),
        ("4", False, False),
        ("4[]", False, False),
        ("4" + "[" * 50_000, False, False),
        ("0{}", False, False),
        ("9", False, False),
        ("x", False, False),
        ("", False, True),  # an empty body contains no packet
        ("bAAAA", False, False),
        ("b!", False, False),
    ],
)
def test_engine_packets_that_clients_may_send(message: str, over_websocket: bool, by_polling: bool) -> None:
    assert (parse_engine_packet(message) is not None, is_valid_payload(message.encode())) == (over_websocket, by_polling)


def test_payload_of_several_packets() -> None:
    assert is_valid_payload(b"3\x1e40")
    assert not is_valid_payload(b"3\x1ex")
    assert not is_valid_payload(b"\xff")
    assert not is_valid_payload(b"d=")
