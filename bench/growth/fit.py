"""Fits the exponent of a cost's growth: the slope of its line on two logarithmic axes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

TOLERANCE = 0.1  # a cost grows faster than its work if its exponent is larger by more than this
WIDE_RANGE = 30  # largest size divided by the smallest one


class Growth(NamedTuple):
    exponent: float
    error: float  # standard error

    def is_faster_than(self, work: float) -> bool:
        """Return whether the exponent exceeds that of the work by more than the tolerance and the standard error."""
        return self.exponent - self.error > work + TOLERANCE


def growth(points: Mapping[int, Sequence[float]]) -> Growth:
    """Fit the costs by size, each of which was measured several times."""
    logarithms = [
        (math.log(size), math.log(cost)) for size, costs in points.items() if size >= first_size(points) for cost in costs
    ]
    mean_x, mean_y = (sum(axis) / len(logarithms) for axis in zip(*logarithms, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in logarithms)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in logarithms) / spread
    residual = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in logarithms)
    return Growth(slope, math.sqrt(residual / max(len(logarithms) - 2, 1) / spread))


def first_size(sizes: Iterable[int]) -> float:
    """Return the smallest size to use. In a wide range only the upper half counts: a fixed cost hides growth at small sizes."""
    least, most = min(sizes), max(sizes)
    return math.sqrt(least * most) * 0.99 if most >= WIDE_RANGE * least else least
