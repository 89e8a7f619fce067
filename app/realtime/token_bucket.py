"""How much a client may do in so much time."""

from __future__ import annotations

import time


class TokenBucket:
    """So many a second, and as many seconds' worth at once."""

    __slots__ = ("_burst", "_left", "_per_second", "_updated")

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = self._left = burst
        self._updated = time.monotonic()

    def take(self, count: int = 1) -> bool:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._updated) * self._per_second)
        self._updated = now
        if self._left < count:
            return False
        self._left -= count
        return True
