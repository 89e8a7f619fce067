"""The measured series and their tables."""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.growth.fit import Growth, growth

MIN_COST = 0.01  # replaces costs that were too small to be measured
CONSTANT, PROPORTIONAL = 0.0, 1.0  # exponent with which the work grows with the size


@dataclass
class Line:
    label: str
    work: float = CONSTANT
    points: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, size: int, cost: float) -> None:
        self.points[size].append(max(cost, MIN_COST))

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
    """Lines with the same unit."""

    title: str
    unit: str
    lines: list[Line]


@dataclass(frozen=True)
class Series:
    sizes: str  # label of the size axis
    panels: list[Panel]

    @property
    def too_fast(self) -> list[str]:
        return [f"{panel.title}: {line.label}" for panel in self.panels for line in panel.lines if line.is_faster_than_its_work]


def table(series: Series) -> str:
    """Return a Markdown table with the growth of each cost and of its work."""
    head = f"| {series.sizes} | smallest size | largest size | cost grows with n^ | work grows with n^ |"
    return "\n".join([head, "|---|---:|---:|---:|---:|", *_rows(series)])


def _rows(series: Series) -> Iterator[str]:
    for panel in series.panels:
        for line in panel.lines:
            smallest, *_, largest = (f"{size:,}: {format_cost(cost)}" for size, cost in sorted(line.medians.items()))
            found = line.growth
            mark = " **faster than its work**" if line.is_faster_than_its_work else ""
            what = f"{panel.title}, {panel.unit}: {line.label}"
            yield f"| {what} | {smallest} | {largest} | {found.exponent:.2f} ± {found.error:.2f}{mark} | {line.work:g} |"


def format_cost(cost: float) -> str:
    """Return three significant digits; the measurements are not more precise."""
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"
