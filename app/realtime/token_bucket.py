"""A token bucket, the rate limit of one client."""

import time


class TokenBucket:
    __slots__ = ("_burst", "_per_second", "_tokens", "_updated_at")

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = self._tokens = burst
        self._updated_at = time.monotonic()

    def take(self, count: int = 1) -> bool:
        """Take `count` tokens and return True, or take none and return False."""
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._updated_at) * self._per_second)
        self._updated_at = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True
