"""What was measured, and how it is told in words and numbers."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.growth.fit import Growth, growth

LEAST = 0.01  # stands for what was too little to be measured
ONE, EACH = 0.0, 1.0  # how the work grows with the size: it is always the same, or there is some for each


@dataclass
class Line:
    label: str
    work: float = ONE
    points: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, size: int, cost: float) -> None:
        self.points[size].append(max(cost, LEAST))

    @property
    def medians(self) -> dict[int, float]:
        return {size: statistics.median(costs) for size, costs in self.points.items()}

    @property
    def growth(self) -> Growth:
        return growth(self.points)

    @property
    def is_faster_than_its_work(self) -> bool:
        return self.growth.is_faster_than(self.work)


@dataclass(frozen=True)
class Panel:
    """Lines of one unit."""

    title: str
    unit: str
    lines: list[Line]


@dataclass(frozen=True)
class Series:
    sizes: str  # what is counted there
    panels: list[Panel]

    @property
    def too_fast(self) -> list[str]:
        return [f"{panel.title}: {line.label}" for panel in self.panels for line in panel.lines if line.is_faster_than_its_work]


def table(series: Series) -> str:
    """Markdown. How a cost grows stands beside how its work does."""
    head = f"| {series.sizes} | the fewest | the most | grows with n^ | its work with n^ |"
    return "\n".join([head, "|---|---:|---:|---:|---:|", *_rows(series)])


def _rows(series: Series) -> Iterator[str]:
    for panel in series.panels:
        for line in panel.lines:
            fewest, *_, most = (f"{size:,}: {told(cost)}" for size, cost in sorted(line.medians.items()))
            found = line.growth
            mark = " **faster than its work**" if line.is_faster_than_its_work else ""
            what = f"{panel.title}, {panel.unit}: {line.label}"
            yield f"| {what} | {fewest} | {most} | {found.exponent:.2f} ± {found.error:.2f}{mark} | {line.work:g} |"


def told(cost: float) -> str:
    """Three figures of it are what such machines can hold."""
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"
