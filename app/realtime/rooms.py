"""The names of what sockets are in, wherever they are: an instance hears what is said in a room while it hosts a member of it."""

from __future__ import annotations

from typing import Protocol

EVERYWHERE = "all"  # all instances are in it, for ever
ANALYTICS = "analytics"  # administrators who watch what is stored


def of_user(user_id: int) -> str:
    return f"user:{user_id}"


class Rooms(Protocol):
    """Which of them this instance hosts members of."""

    def join(self, room: str) -> None:
        """One more member is here. Does not wait."""

    def leave(self, room: str) -> None:
        """One member less."""

    def await_joined(self, room: str) -> None:
        """Returns when nothing that is said there from now on is missed; or after a second, for Redis may be away."""
