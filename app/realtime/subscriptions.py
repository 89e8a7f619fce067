"""Which rooms are to be heard, and which are: what has to be asked of Redis follows from the difference.

Of each room one request at most is under way. So a confirmation is that of the last request, however fast members come and go.
"""

from __future__ import annotations

import time
from collections import Counter

from gevent.event import Event

LINGER_SECONDS = 5.0  # a room is heard that much longer than it has members, who may be about to come back

_ASKED, _HEARD, _GIVEN_UP = "asked", "heard", "given up"


class Subscriptions:
    def __init__(self, always: str) -> None:
        """`always`: the room that is to be heard for ever, and is asked for last: when it is heard, all are."""
        self.changed = Event()  # there is something to ask for
        self._always = always
        self._members = Counter({always: 1})
        self._state: dict[str, str] = {}  # of rooms that Redis has been asked for
        self._unsettled: set[str] = set()  # rooms to be looked at
        self._left: dict[str, float] = {}  # rooms without members: since when, the oldest first
        self._awaited: dict[str, Event] = {}
        self.restart()

    def join(self, room: str) -> None:
        self._members[room] += 1
        if self._left.pop(room, None) is None and self._members[room] == 1:
            self._look_at(room)

    def leave(self, room: str) -> None:
        self._members[room] -= 1
        if not self._members[room]:
            del self._members[room]
            self._left[room] = time.monotonic()
            self._wake_who_awaits(room)

    def has_members(self, room: str) -> bool:
        return room in self._members

    def wait_until_subscribed(self, room: str, seconds: float) -> None:
        """At the longest for so long, or until nobody is in it any more."""
        if self.has_members(room) and self._state.get(room) != _HEARD:
            self._awaited.setdefault(room, Event()).wait(seconds)

    # What is said to Redis, and what it says.

    def restart(self) -> None:
        """The connection is lost: of the next one nothing has been asked yet."""
        self._state.clear()
        self._left.clear()
        self._unsettled = set(self._members)
        self.changed.set()

    def take_requests(self) -> tuple[list[str], list[str]]:
        """The rooms to subscribe to and to unsubscribe from, in this order."""
        self.changed.clear()
        self._give_up_empty()
        unsettled, self._unsettled = self._unsettled, set()
        subscribe = [room for room in unsettled if self._is_wanted(room) and room not in self._state]
        unsubscribe = [room for room in unsettled if not self._is_wanted(room) and self._state.get(room) == _HEARD]
        subscribe.sort(key=lambda room: room == self._always)
        self._state |= dict.fromkeys(subscribe, _ASKED) | dict.fromkeys(unsubscribe, _GIVEN_UP)
        return subscribe, unsubscribe

    def on_subscribed(self, room: str) -> None:
        self._state[room] = _HEARD
        self._wake_who_awaits(room)
        if not self._is_wanted(room):
            self._look_at(room)

    def on_unsubscribed(self, room: str) -> None:
        del self._state[room]
        if self._is_wanted(room):
            self._look_at(room)

    def _is_wanted(self, room: str) -> bool:
        return room in self._members or room in self._left

    def _give_up_empty(self) -> None:
        long_ago = time.monotonic() - LINGER_SECONDS
        for room, since in list(self._left.items()):
            if since > long_ago:
                return
            del self._left[room]
            self._unsettled.add(room)

    def _look_at(self, room: str) -> None:
        self._unsettled.add(room)
        self.changed.set()

    def _wake_who_awaits(self, room: str) -> None:
        if awaited := self._awaited.pop(room, None):
            awaited.set()
