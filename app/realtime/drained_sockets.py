"""How many sockets of each user have received `draining` lately, on any instance."""

import time
from collections import Counter, deque

REMEMBERED_SECONDS = 30.0  # longer than a client needs to open its next socket


class DrainedSockets:
    """A client that hands over has two sockets for a moment, so as many as were drained may be opened beyond the limit."""

    def __init__(self) -> None:
        self._drained: deque[tuple[float, int]] = deque()  # when, and the user's ID, oldest first
        self._counts: Counter[int] = Counter()

    def add(self, user_id: int) -> None:
        self._forget_old()
        self._drained.append((time.monotonic(), user_id))
        self._counts[user_id] += 1

    def count(self, user_id: int) -> int:
        """Return the number of sockets of this user that were drained within REMEMBERED_SECONDS."""
        self._forget_old()
        return self._counts[user_id]

    def _forget_old(self) -> None:
        while self._drained and self._drained[0][0] < time.monotonic() - REMEMBERED_SECONDS:
            _, user_id = self._drained.popleft()
            self._counts[user_id] -= 1
            if not self._counts[user_id]:
                del self._counts[user_id]
