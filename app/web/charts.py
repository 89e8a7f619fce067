"""Computes the coordinates of SVG charts. The stylesheet defines their looks, and templates add their labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MAX_SCORE = 100
RADIUS = 90  # of a radar chart around 0, 0
RINGS = (30, 60, 90)

Point = tuple[float, float]


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float


def spoke(index: int, count: int, radius: float = RADIUS) -> Point:
    """Return the end of a spoke. The first spoke points up, the others follow clockwise."""
    angle = 2 * math.pi * index / count
    return _rounded(radius * math.sin(angle)), _rounded(-radius * math.cos(angle))


def ring(radius: float, count: int) -> str:
    """Return the `points` of a polygon with a corner on each spoke."""
    return _points_attribute([spoke(index, count, radius) for index in range(count)])


def dots(scores: Sequence[int | None]) -> list[Point]:
    """Return a point for each score that is not None."""
    return [spoke(index, len(scores), RADIUS * score / MAX_SCORE) for index, score in enumerate(scores) if score is not None]


def outline(scores: Sequence[int | None]) -> str:
    """Return the `points` of a polygon through the scores that are not None."""
    return _points_attribute(dots(scores))


def bars(values: Sequence[int], width: float, height: float) -> list[Bar]:
    """Return bars from left to right. The largest value has the full height; other positive values have at least height 1."""
    if not values:
        return []
    step, largest = width / len(values), max(max(values), 1)
    heights = [max(height * value / largest, 1) if value else 0 for value in values]
    return [
        Bar(_rounded(step * index), _rounded(height - bar_height), _rounded(step * 0.8), _rounded(bar_height))
        for index, bar_height in enumerate(heights)
    ]


def columns(values: Sequence[int], height: float) -> str:
    """Return a path of columns that are 1 wide. The largest has the full height, other positive ones at least a fiftieth."""
    largest = max(values, default=0)
    tops = [height - max(height * value / largest, height / 50) if value else None for value in values]
    return "".join(f"M{x} {height:g}V{_rounded(top):g}h1V{height:g}" for x, top in enumerate(tops) if top is not None)


def shares(values: Sequence[float], width: float) -> list[Bar]:
    """Return the segments of one stacked bar of height 1."""
    total, x, parts = sum(values) or 1, 0.0, []
    for value in values:
        parts.append(Bar(_rounded(x), 0, _rounded(width * value / total), 1))
        x += width * value / total
    return parts


def polylines(times: Sequence[float], scores: Sequence[int | None], width: float, height: float) -> list[str]:
    """Return the `points` of a score over time, oldest first. A missing score splits the curve; a single score is a dot."""
    first, span = (times[0], times[-1] - times[0]) if times else (0, 0)
    curves: list[list[Point]] = [[]]
    for time, score in zip(times, scores, strict=True):
        if score is None:
            curves.append([])
        else:
            x = width * (time - first) / span if span else 0
            curves[-1].append((_rounded(x), _rounded(height - height * score / MAX_SCORE)))
    return [_points_attribute(curve if len(curve) > 1 else curve * 2) for curve in curves if curve]


def _points_attribute(points: Sequence[Point]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _rounded(value: float) -> float:
    return round(value, 1) + 0.0  # turns -0.0 into 0.0
