"""An index of the Socket.IO rooms of each socket."""

from collections import defaultdict
from functools import cached_property
from typing import Any

from socketio.base_manager import BaseManager


class RoomMembers(BaseManager):  # type: ignore[misc] # python-socketio has no type hints
    """A mixin for Socket.IO managers that looks up the rooms of a socket that disconnects.

    python-socketio searches all rooms instead, which takes 2.7 ms where there are 4,000.
    """

    @cached_property
    def _rooms_of(self) -> defaultdict[str, set[str | None]]:
        return defaultdict(set)

    def basic_enter_room(self, sid: str, namespace: str, room: str | None, eio_sid: str | None = None) -> None:
        super().basic_enter_room(sid, namespace, room, eio_sid)
        self._rooms_of[sid].add(room)

    def basic_leave_room(self, sid: str, namespace: str, room: str | None) -> None:
        super().basic_leave_room(sid, namespace, room)
        if sid in self._rooms_of:
            self._rooms_of[sid].discard(room)

    def basic_disconnect(self, sid: str, namespace: str, **_: Any) -> None:
        for room in self._rooms_of.pop(sid, ()):
            self.basic_leave_room(sid, namespace, room)
        self.callbacks.pop(sid, None)
        for pending in (self.pending_connect, self.pending_disconnect):
            if sid in pending.get(namespace, ()):
                pending[namespace].remove(sid)
                if not pending[namespace]:
                    del pending[namespace]
