"""The geometry of charts: from numbers to places in an SVG. Their looks are the stylesheet's, their words the templates'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

TOP = 100  # of a score
RADIUS = 90  # of a radar, whose centre is at 0, 0
RINGS = (30, 60, 90)

Place = tuple[float, float]


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float


def spoke(index: int, count: int, radius: float = RADIUS) -> Place:
    """The first spoke points up, the others follow clockwise."""
    angle = 2 * math.pi * index / count
    return _rounded(radius * math.sin(angle)), _rounded(-radius * math.cos(angle))


def ring(radius: float, count: int) -> str:
    """The points of a polygon."""
    return _points([spoke(index, count, radius) for index in range(count)])


def blips(scores: Sequence[int | None]) -> list[Place]:
    """A place for each score that there is."""
    return [spoke(index, len(scores), RADIUS * score / TOP) for index, score in enumerate(scores) if score is not None]


def outline(scores: Sequence[int | None]) -> str:
    """The points of a polygon through the scores that there are."""
    return _points(blips(scores))


def bars(values: Sequence[int], width: float, height: float) -> list[Bar]:
    """Side by side from left to right, as high as their share in the largest; what is not zero can be seen."""
    if not values:
        return []
    step, largest = width / len(values), max(max(values), 1)
    heights = [max(height * value / largest, 1) if value else 0 for value in values]
    return [
        Bar(_rounded(step * index), _rounded(height - tall), _rounded(step * 0.8), _rounded(tall))
        for index, tall in enumerate(heights)
    ]


def shares(values: Sequence[int], width: float) -> list[Bar]:
    """Parts of one bar of height 1, each as wide as its share in the sum."""
    total, x, parts = sum(values) or 1, 0.0, []
    for value in values:
        parts.append(Bar(_rounded(x), 0, _rounded(width * value / total), 1))
        x += width * value / total
    return parts


def lines(moments: Sequence[float], scores: Sequence[int | None], width: float, height: float) -> list[str]:
    """The points of a curve of scores over time, oldest first; more than one curve where scores are missing in between."""
    first, span = (moments[0], moments[-1] - moments[0]) if moments else (0, 0)
    curves: list[list[Place]] = [[]]
    for moment, score in zip(moments, scores, strict=True):
        if score is None:
            curves.append([])
        else:
            x = width * (moment - first) / span if span else 0
            curves[-1].append((_rounded(x), _rounded(height - height * score / TOP)))
    return [_points(curve) for curve in curves if curve]


def _points(places: Sequence[Place]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in places)


def _rounded(value: float) -> float:
    return round(value, 1) + 0.0  # without a negative zero
