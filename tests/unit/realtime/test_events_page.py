"""docs/socketio.md describes every event and every type of notification, and no others."""

from __future__ import annotations

import re

from flask import Flask

from app.notifications.service import TYPES
from app.realtime.custom_events import APPLICATION_EVENTS, LIVE_SOCKET_EVENTS
from harness.servers import ROOT

PAGE = ROOT / "docs" / "socketio.md"
WITHOUT_CHOICE = {"channel.disabled", "export.ready", "message"}  # types of notifications that a user cannot switch off


def first_column(heading: str, title: str) -> set[str]:
    """Return the names in the first column, with this title, of the table below a heading."""
    _, _, section = PAGE.read_text().partition(f"\n{heading}\n")
    _, _, table = section.partition(f"\n| {title} |")
    rows, _, _ = table.partition("\n\n")
    return set(re.findall(r"^\| `([\w.]+)`", rows, re.MULTILINE))


def test_every_event_is_described_and_every_described_event_exists(app: Flask) -> None:
    from_clients = set(app.extensions["socketio"].server.handlers["/"]) - {"connect", "disconnect"}
    assert first_column("## Events of the client", "event") == from_clients
    assert first_column("## Events of the server", "event") == APPLICATION_EVENTS - from_clients
    assert first_column("## The module live-socket.js", "event of the module") == LIVE_SOCKET_EVENTS


def test_data_of_every_type_of_notification_are_described() -> None:
    assert first_column("### Data of notifications", "type") == {*TYPES, *WITHOUT_CHOICE}
