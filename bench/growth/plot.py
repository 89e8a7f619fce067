"""Writes plots of series as SVG. Both axes are logarithmic, and each line is labelled at its end.

A plotting library would be another dependency. It would draw letters as curves, in colours that do not fit a dark page.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import pairwise

from bench.growth.series import PROPORTIONAL, Line, Panel, Series, format_cost

COLUMNS = 2
WIDTH, HEIGHT = 440, 240  # panel
LEFT, RIGHT, TOP, BOTTOM = 46, 176, 40, 48  # margins; the labels are on the right
LABEL_HEIGHT = 32  # two lines of text
MIN_SPAN = 10.0  # upper end of the cost axis divided by the lower one
MARGIN = 1.4  # factor below and above the lines
MAX_TICKS = 7

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.small { font-size: 11px; fill: #59636e }
.grid { stroke: #d1d9e0 }
.line { stroke: currentColor; stroke-width: 2; fill: none }
.thin { stroke: currentColor; stroke-width: 1; fill: none }
.name { fill: currentColor }
.c0 { color: #0969da } .c1 { color: #bc4c00 } .c2 { color: #1a7f37 } .c3 { color: #8250df }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .small { fill: #9198a1 } .grid { stroke: #3d444d } .name { fill: currentColor }
.c0 { color: #4493f8 } .c1 { color: #f0883e } .c2 { color: #3fb950 } .c3 { color: #ab7df8 }
}
"""

Scale = Callable[[float], float]  # from a size or a cost to a coordinate in the panel


def svg(series: Series) -> str:
    columns = min(COLUMNS, len(series.panels))
    width, height = columns * WIDTH, math.ceil(len(series.panels) / columns) * HEIGHT
    pieces = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
        f"<style>{STYLE}</style>",
    ]
    for number, panel in enumerate(series.panels):
        pieces.append(f'<g transform="translate({number % columns * WIDTH} {number // columns * HEIGHT})">')
        pieces += [*_panel(panel, series.sizes), "</g>"]
    return "\n".join([*pieces, "</svg>\n"])


def _panel(panel: Panel, sizes: str) -> Iterator[str]:
    measured = sorted({size for line in panel.lines for size in line.points})
    lowest, highest = axis_range([*_costs(panel)])
    across = _scale(measured[0], measured[-1], LEFT, WIDTH - RIGHT)
    up = _scale(lowest, highest, HEIGHT - BOTTOM, TOP)
    yield _text(4, 18, f"{panel.title}, {panel.unit}", "title")
    for cost in ticks(lowest, highest):
        yield f'<path class="grid" d="M{LEFT} {up(cost):.1f}H{WIDTH - RIGHT}"/>'
        yield _text(LEFT - 6, up(cost) + 4, f"{cost:,g}", "small", "end")
    for size in measured:
        yield _text(across(size), HEIGHT - BOTTOM + 18, short_number(size), "small", "middle")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 36, sizes, "small", "middle")
    ends = spread_labels([up(_last(line)) for line in panel.lines], TOP, HEIGHT - BOTTOM - LABEL_HEIGHT / 2)
    for number, (line, end) in enumerate(zip(panel.lines, ends, strict=True)):
        yield f'<g class="c{number}">'
        yield from _line(line, across, up, end)
        yield "</g>"


def _line(line: Line, across: Scale, up: Scale, end: float) -> Iterator[str]:
    points = [(across(size), up(cost)) for size, cost in sorted(line.medians.items())]
    yield f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
    yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="currentColor"/>' for x, y in points)
    last, right = points[-1], WIDTH - RIGHT + 14
    if line.work == PROPORTIONAL:
        start = across(min(line.points)), up(_if_proportional(line))
        yield _stroke(start, last, "thin", dashed=True)
    yield _stroke((last[0] + 3, last[1]), (right - 3, end), "thin")
    yield _text(right, end + 1, line.label, "name")
    yield _text(right, end + 14, _growth(line), "small")


def _growth(line: Line) -> str:
    words = f"{format_cost(_last(line))}, n^{line.growth.exponent:.2f}"
    return words + (": too fast" if line.is_faster_than_its_work else " (work n^1)" if line.work == PROPORTIONAL else "")


def _stroke(start: tuple[float, float], end: tuple[float, float], kind: str, *, dashed: bool = False) -> str:
    pattern = ' stroke-dasharray="3 4"' if dashed else ""
    return f'<path class="{kind}"{pattern} d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}"/>'


def _costs(panel: Panel) -> Iterator[float]:
    for line in panel.lines:
        yield from line.medians.values()
        if line.work == PROPORTIONAL:
            yield _if_proportional(line)


def _if_proportional(line: Line) -> float:
    """Return the cost at the smallest size if the cost had grown like its work."""
    return _last(line) * min(line.points) / max(line.points)


def _last(line: Line) -> float:
    return line.medians[max(line.points)]


def axis_range(costs: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the cost axis, with the costs in its middle."""
    lowest, highest = min(costs) / MARGIN, max(costs) * MARGIN
    factor = max(1.0, math.sqrt(MIN_SPAN / (highest / lowest)))
    return lowest / factor, highest * factor


def ticks(lowest: float, highest: float) -> list[float]:
    """Return the round costs 1, 2, 5, 10, ..., or only powers of ten if there would be too many."""
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    within = [(first, first * 10.0**power) for power in powers for first in (1, 2, 5) if lowest <= first * 10.0**power <= highest]
    return [cost for first, cost in within if first == 1 or len(within) <= MAX_TICKS]


def spread_labels(positions: Sequence[float], top: float, bottom: float) -> list[float]:
    """Move the positions so far apart that the labels do not overlap."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    moved = list(positions)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + LABEL_HEIGHT)
    limit = bottom
    for one in reversed(order):
        moved[one] = max(top, min(moved[one], limit))
        limit = moved[one] - LABEL_HEIGHT
    return moved


def short_number(size: int) -> str:
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return str(size)


def _scale(least: float, most: float, start: float, end: float) -> Scale:
    return lambda value: start + (end - start) * math.log(value / least) / math.log(most / least)


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
