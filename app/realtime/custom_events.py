"""Events that scripts and operators emit. They reach browsers unchanged, so they are checked before they are sent."""

import json
from typing import Any

from app.core.messages import ALL_INSTANCES, Message

CUSTOM_EVENT = "emit"  # the kind of the messages
MAX_NAME_LENGTH = 100
MAX_DATA_BYTES = 64 * 1024  # as for the messages of clients
MAX_DATA_DEPTH = 100  # lists and objects in each other; Python's limit is lower for an instance than for a script

# Events with a meaning for RepoRadar and its pages: one from outside could show a notification that is not stored.
APPLICATION_EVENTS = frozenset(
    {
        "analysis",
        "analytics_off",
        "draining",
        "events_stored",
        "export",
        "head",
        "notification",
        "read",
        "ready",
        "session_ended",
        "sync",
        "unwatch",
        "watch",
        "watch_analytics",
    }
)
# Events that the official clients raise themselves, with handlers that an event of the server would call too.
CLIENT_LIBRARY_EVENTS = frozenset({"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"})
LIVE_SOCKET_EVENTS = frozenset({"ended", "live", "missed", "waiting"})  # as the former, of live-socket.js


def create_message(event: str, data: Any, room: str | None) -> Message:
    """Return the message that emits an event. Raises ValueError with one line that says what is wrong.

    `data` is anything that JSON can represent. As in python-socketio, the items of a tuple are separate arguments of the event,
    and None is no argument. None as `room` means all sockets, as does the room `all`.
    """
    _check_name("event", event)
    if event in APPLICATION_EVENTS:
        raise ValueError(f"the event {event} belongs to RepoRadar; to send a notification, use: flask --app wsgi notify")
    if event in CLIENT_LIBRARY_EVENTS:
        raise ValueError(f"the event {event} belongs to the Socket.IO clients; choose another name")
    if event in LIVE_SOCKET_EVENTS:
        raise ValueError(f"the event {event} belongs to live-socket.js; choose another name")
    if room is not None:
        _check_name("room", room)
    arguments = data if isinstance(data, tuple) else () if data is None else (data,)
    content = {"event": event, "arguments": _as_json_values(arguments), "room": room or ALL_INSTANCES}
    return Message(room or ALL_INSTANCES, CUSTOM_EVENT, content)


def _check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        raise ValueError(f"the name of the {what} must be 1 to {MAX_NAME_LENGTH} printable characters")


def _as_json_values(arguments: tuple[Any, ...]) -> list[Any]:
    """Return what a client receives. The encoder of messages would also accept bytes and times, and send something else."""
    try:
        encoded = json.dumps(arguments, allow_nan=False, ensure_ascii=False).encode()
        values: list[Any] = json.loads(encoded)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the data cannot be represented in JSON: {error}") from None
    if len(encoded) > MAX_DATA_BYTES:
        raise ValueError(f"the data have {len(encoded):,} bytes of JSON; the maximum is {MAX_DATA_BYTES:,}")
    if any(_is_deeper(value, MAX_DATA_DEPTH) for value in values):
        raise ValueError(f"the data have more than {MAX_DATA_DEPTH} lists and objects in each other")
    return values


def _is_deeper(value: Any, depth: int) -> bool:
    """Return whether a JSON value has more than `depth` lists and objects in each other."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return parts is not None and (depth == 0 or any(_is_deeper(part, depth - 1) for part in parts))
