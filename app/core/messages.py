"""Messages between instances. A message goes to the instances that host at least one member of its room."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

ALL_INSTANCES = "all"  # the room that every instance is always subscribed to
TRACEPARENT = "traceparent"  # the key of the data that holds the span of the sender, if traces are on
ANALYTICS_ROOM = "analytics"  # administrators who have the analytics page open


def user_room(user_id: int) -> str:
    return f"user:{user_id}"


class Message(NamedTuple):
    room: str
    kind: str  # selects the handler on the receiving instance
    data: dict[str, Any]


# Best effort: does not raise. Keeps the order within a room, unless a Redis Cluster moves the room at that moment.
Publish = Callable[[Sequence[Message]], None]
