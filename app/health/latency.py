"""Percentiles of recent response times, from a histogram instead of single values."""

import math
import time
from collections import deque

WINDOW_SECONDS = 60
FASTEST_SECONDS, SLOWEST_SECONDS = 0.0001, 100.0  # values outside are counted as these
GROWTH = 1.1  # of the bucket width; a value differs from the middle of its bucket by at most 4.9 %

_BUCKETS_PER_UNIT = 1 / math.log(GROWTH)  # times a natural logarithm: faster than one to the base GROWTH
_BUCKETS = math.ceil(math.log(SLOWEST_SECONDS / FASTEST_SECONDS, GROWTH)) + 1


class ResponseTimes:
    """The response times of the last minute: one row of bucket counts for each second with a response."""

    def __init__(self) -> None:
        self._rows: deque[tuple[int, list[int]]] = deque()  # second, counts
        self._totals = [0] * _BUCKETS

    def observe(self, seconds: float) -> None:
        now = int(time.monotonic())
        self._evict(now)
        if not self._rows or self._rows[-1][0] != now:
            self._rows.append((now, [0] * _BUCKETS))
        bucket = _bucket(seconds)
        self._rows[-1][1][bucket] += 1
        self._totals[bucket] += 1

    def percentile(self, percent: float) -> float | None:
        """Return the percentile in seconds, or None if there was no response."""
        self._evict(int(time.monotonic()))
        rank = math.ceil(sum(self._totals) * percent / 100)
        below = 0
        for bucket, count in enumerate(self._totals):
            below += count
            if count and below >= rank:
                return FASTEST_SECONDS * math.pow(GROWTH, bucket - 0.5)
        return None

    def _evict(self, now: int) -> None:
        while self._rows and self._rows[0][0] <= now - WINDOW_SECONDS:
            for bucket, count in enumerate(self._rows.popleft()[1]):
                self._totals[bucket] -= count


def _bucket(seconds: float) -> int:
    """Bucket n holds values above FASTEST * GROWTH ** (n - 1), up to GROWTH times that."""
    bounded = min(max(seconds, FASTEST_SECONDS), SLOWEST_SECONDS)
    return math.ceil(math.log(bounded / FASTEST_SECONDS) * _BUCKETS_PER_UNIT)
