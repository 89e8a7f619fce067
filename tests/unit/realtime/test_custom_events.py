from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask

from app.core.messages import ALL_INSTANCES
from app.realtime.custom_events import APPLICATION_EVENTS, LIVE_SOCKET_EVENTS, create_message
from harness.servers import ROOT


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        (None, []),
        ({"a": [1, 2.5, None, "ü"]}, [{"a": [1, 2.5, None, "ü"]}]),
        ([1, 2], [[1, 2]]),
        ((1, (2,)), [1, [2]]),
        (False, [False]),
    ],
)
def test_data_become_arguments_as_in_python_socketio(data: Any, arguments: list[Any]) -> None:
    message = create_message("deployed", data, "user:7")
    assert message == ("user:7", "emit", {"event": "deployed", "arguments": arguments, "room": "user:7"})


def test_message_without_a_room_goes_to_all_instances() -> None:
    assert create_message("deployed", None, None) == create_message("deployed", None, "all")
    assert create_message("deployed", None, None).room == ALL_INSTANCES


@pytest.mark.parametrize("data", [b"bytes", datetime.now(UTC), math.nan, {"a": math.inf}, "\ud800", {(1, 2): 3}, object()])
def test_data_that_json_cannot_represent_are_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"^the data cannot be represented in JSON: "):
        create_message("deployed", data, None)


def test_size_of_data_is_limited() -> None:
    create_message("deployed", "x" * (64 * 1024 - 4), None)
    with pytest.raises(ValueError, match=r"^the data have 65,537 bytes of JSON; the maximum is 65,536$"):
        create_message("deployed", "x" * (64 * 1024 - 3), None)


@pytest.mark.parametrize("innermost", [[], {}])
def test_depth_of_data_is_limited(innermost: Any) -> None:
    """Otherwise an instance could fail to decode what a script was able to encode, and would lose its subscriptions."""
    data = innermost
    for number in range(99):
        data = [data] if number % 2 else {"a": data}
    create_message("deployed", data, None)
    with pytest.raises(ValueError, match=r"^the data have more than 100 lists and objects in each other$"):
        create_message("deployed", [data], None)


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb", "\ud800", "\0"])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=r"^the name of the event must be 1 to 100 printable characters$"):
        create_message(name, None, None)
    with pytest.raises(ValueError, match=r"^the name of the room must be 1 to 100 printable characters$"):
        create_message("deployed", None, name)


@pytest.mark.parametrize("event", ["ready", "notification", "analysis", "head", "draining", "read", "session_ended", "watch"])
def test_events_of_the_application_are_refused(event: str) -> None:
    with pytest.raises(ValueError, match=rf"^the event {event} belongs to RepoRadar; .*: flask --app wsgi notify$"):
        create_message(event, {}, "user:7")


@pytest.mark.parametrize("event", ["connect", "disconnect", "connect_error"])
def test_events_of_client_libraries_are_refused(event: str) -> None:
    with pytest.raises(ValueError, match=rf"^the event {event} belongs to the Socket.IO clients; choose another name$"):
        create_message(event, {}, "user:7")


def test_events_of_the_module_for_pages_are_refused() -> None:
    source = (ROOT / "app" / "web" / "static" / "live-socket.js").read_text()
    events = set(re.findall(r'#call\("(\w+)"', source)) - {"notification"}
    assert events == LIVE_SOCKET_EVENTS
    for event in events:
        with pytest.raises(ValueError, match=rf"^the event {event} belongs to live-socket.js; choose another name$"):
            create_message(event, {}, None)


def test_every_event_of_the_application_is_known(app: Flask) -> None:
    received = set(app.extensions["socketio"].server.handlers["/"]) - {"connect", "disconnect"}
    sources = "\n".join(path.read_text() for path in (ROOT / "app").glob("**/*.py"))
    sent = set(re.findall(r'emit(?:_to)?\((?:.*?, )?"(\w+)", ', sources))
    assert {"ready", "analysis", "session_ended", "events_stored"} <= sent
    assert received | sent == APPLICATION_EVENTS | {"deployed"}  # the example in a docstring
