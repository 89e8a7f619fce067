"""How long responses have taken lately, without keeping each of them."""

from __future__ import annotations

import math
import time
from collections import deque

WINDOW_SECONDS = 60
FASTEST_SECONDS, SLOWEST_SECONDS = 0.0001, 100.0  # what is beyond counts as one of these
GROWTH = 1.1  # from one bucket to the next; the middle of a bucket is at most 4.9 % away from what is in it

_BUCKETS = math.ceil(math.log(SLOWEST_SECONDS / FASTEST_SECONDS, GROWTH)) + 1


class ResponseTimes:
    """Of the last minute: counts in buckets of growing width, a row of them for each second in which there was a response."""

    def __init__(self) -> None:
        self._rows: deque[tuple[int, list[int]]] = deque()  # second, counts
        self._totals = [0] * _BUCKETS

    def observe(self, seconds: float) -> None:
        now = int(time.monotonic())
        self._forget(now)
        if not self._rows or self._rows[-1][0] != now:
            self._rows.append((now, [0] * _BUCKETS))
        bucket = _bucket(seconds)
        self._rows[-1][1][bucket] += 1
        self._totals[bucket] += 1

    def percentile(self, percent: float) -> float | None:
        """In seconds; None if there was no response."""
        self._forget(int(time.monotonic()))
        rank = math.ceil(sum(self._totals) * percent / 100)
        below = 0
        for bucket, count in enumerate(self._totals):
            below += count
            if count and below >= rank:
                return FASTEST_SECONDS * math.pow(GROWTH, bucket - 0.5)
        return None

    def _forget(self, now: int) -> None:
        while self._rows and self._rows[0][0] <= now - WINDOW_SECONDS:
            for bucket, count in enumerate(self._rows.popleft()[1]):
                self._totals[bucket] -= count


def _bucket(seconds: float) -> int:
    """Number n holds what is above FASTEST * GROWTH ** (n - 1), and at most GROWTH times that."""
    bounded = min(max(seconds, FASTEST_SECONDS), SLOWEST_SECONDS)
    return math.ceil(math.log(bounded / FASTEST_SECONDS, GROWTH))
