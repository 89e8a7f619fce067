"""Plots of series, written as SVG by hand: both axes are logarithmic, and at its end each line says what it is.

A plotting library would be one more dependency, and write each letter as a curve, in colours that fit a light page alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import pairwise

from bench.growth.series import EACH, Line, Panel, Series, told

COLUMNS = 2
WIDTH, HEIGHT = 440, 240  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 46, 176, 40, 48  # of its margins; on the right there are the names
NAME_HEIGHT = 32  # of two lines of text
SPAN = 10.0  # the least from the lower end of the axis of costs to its upper one
ROOM = 1.4  # below and above the lines
MANY_TICKS = 7

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

Place = Callable[[float], float]  # of a size or a cost, in the panel


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
    lowest, highest = reach([*_costs(panel)])
    across = _scale(measured[0], measured[-1], LEFT, WIDTH - RIGHT)
    up = _scale(lowest, highest, HEIGHT - BOTTOM, TOP)
    yield _text(4, 18, f"{panel.title}, {panel.unit}", "title")
    for cost in ticks(lowest, highest):
        yield f'<path class="grid" d="M{LEFT} {up(cost):.1f}H{WIDTH - RIGHT}"/>'
        yield _text(LEFT - 6, up(cost) + 4, f"{cost:,g}", "small", "end")
    for size in measured:
        yield _text(across(size), HEIGHT - BOTTOM + 18, short(size), "small", "middle")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 36, sizes, "small", "middle")
    ends = apart([up(_last(line)) for line in panel.lines], TOP, HEIGHT - BOTTOM - NAME_HEIGHT / 2)
    for number, (line, end) in enumerate(zip(panel.lines, ends, strict=True)):
        yield f'<g class="c{number}">'
        yield from _line(line, across, up, end)
        yield "</g>"


def _line(line: Line, across: Place, up: Place, end: float) -> Iterator[str]:
    places = [(across(size), up(cost)) for size, cost in sorted(line.medians.items())]
    yield f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
    yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="currentColor"/>' for x, y in places)
    last, right = places[-1], WIDTH - RIGHT + 14
    if line.work == EACH:
        start = across(min(line.points)), up(_as_its_work(line))
        yield _stroke(start, last, "thin", dashed=True)
    yield _stroke((last[0] + 3, last[1]), (right - 3, end), "thin")
    yield _text(right, end + 1, line.label, "name")
    yield _text(right, end + 14, _growth(line), "small")


def _growth(line: Line) -> str:
    words = f"{told(_last(line))}, n^{line.growth.exponent:.2f}"
    return words + (": too fast" if line.is_faster_than_its_work else " (work n^1)" if line.work == EACH else "")


def _stroke(start: tuple[float, float], end: tuple[float, float], kind: str, *, dashed: bool = False) -> str:
    pattern = ' stroke-dasharray="3 4"' if dashed else ""
    return f'<path class="{kind}"{pattern} d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}"/>'


def _costs(panel: Panel) -> Iterator[float]:
    for line in panel.lines:
        yield from line.medians.values()
        if line.work == EACH:
            yield _as_its_work(line)


def _as_its_work(line: Line) -> float:
    """What the fewest would cost if the cost had grown as its work has."""
    return _last(line) * min(line.points) / max(line.points)


def _last(line: Line) -> float:
    return line.medians[max(line.points)]


def reach(costs: Sequence[float]) -> tuple[float, float]:
    """Of the axis, the costs in its middle."""
    lowest, highest = min(costs) / ROOM, max(costs) * ROOM
    more = max(1.0, math.sqrt(SPAN / (highest / lowest)))
    return lowest / more, highest * more


def ticks(lowest: float, highest: float) -> list[float]:
    """Round costs: 1, 2, 5, 10, and so on; powers of ten alone where these are too many."""
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    within = [(first, first * 10.0**power) for power in powers for first in (1, 2, 5) if lowest <= first * 10.0**power <= highest]
    return [cost for first, cost in within if first == 1 or len(within) <= MANY_TICKS]


def apart(places: Sequence[float], top: float, bottom: float) -> list[float]:
    """The same places, moved as far as names need."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + NAME_HEIGHT)
    limit = bottom
    for one in reversed(order):
        moved[one] = max(top, min(moved[one], limit))
        limit = moved[one] - NAME_HEIGHT
    return moved


def short(size: int) -> str:
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return str(size)


def _scale(least: float, most: float, start: float, end: float) -> Place:
    return lambda value: start + (end - start) * math.log(value / least) / math.log(most / least)


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
