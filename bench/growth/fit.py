"""The exponent with which a cost grows: the slope of its line where both axes are logarithmic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

TOLERANCE = 0.1  # above the exponent of the work: beyond it a cost grows faster than its work
FAR = 30  # times the smallest size


class Growth(NamedTuple):
    exponent: float
    error: float  # standard error

    def is_faster_than(self, work: float) -> bool:
        """By more than the tolerance and the noise."""
        return self.exponent - self.error > work + TOLERANCE


def growth(points: Mapping[int, Sequence[float]]) -> Growth:
    """Of the costs by size, each measured several times."""
    places = [(math.log(size), math.log(cost)) for size, costs in points.items() if size >= first(points) for cost in costs]
    mean_x, mean_y = (sum(axis) / len(places) for axis in zip(*places, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in places)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in places) / spread
    left = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in places)
    return Growth(slope, math.sqrt(left / max(len(places) - 2, 1) / spread))


def first(sizes: Iterable[int]) -> float:
    """The smallest that counts. Where they lie far apart the upper half does: among small ones a fixed cost hides what grows."""
    least, most = min(sizes), max(sizes)
    return math.sqrt(least * most) * 0.99 if most >= FAR * least else least
