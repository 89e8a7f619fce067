"""Who is told something: those in a room, wherever they are. An instance hears what is said in it while it hosts a member."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

EVERYWHERE = "all"  # all instances are in it, for ever
ANALYTICS = "analytics"  # administrators who watch what is stored


def of_user(user_id: int) -> str:
    return f"user:{user_id}"


class Letter(NamedTuple):
    room: str
    kind: str
    message: dict[str, Any]


Publish = Callable[[Sequence[Letter]], None]  # does not raise; keeps the order of what goes to one room


class Rooms(Protocol):
    """Which of them this instance hosts members of."""

    def join(self, room: str) -> None:
        """One more member is here. Does not wait."""

    def leave(self, room: str) -> None:
        """One member less."""

    def await_joined(self, room: str) -> None:
        """Returns when nothing that is said there from now on is missed; or after a second, for Redis may be away."""
