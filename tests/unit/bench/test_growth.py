from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from bench.growth.fit import growth
from bench.growth.plot import LABEL_HEIGHT, axis_range, short_number, spread_labels, svg, ticks
from bench.growth.series import CONSTANT, PROPORTIONAL, Line, Panel, Series, table

SIZES = (1_000, 10_000, 100_000, 1_000_000)
NOISE = (0.93, 1.0, 1.05)


def line(cost: Callable[[int], float], work: float = CONSTANT, label: str = "instance") -> Line:
    result = Line(label, work)
    for size in SIZES:
        for noise in NOISE:
            result.add(size, cost(size) * noise)
    return result


@pytest.mark.parametrize("exponent", [0, 0.5, 1, 2])
def test_exponent_of_a_power_is_found(exponent: float) -> None:
    found = growth({size: [3 * size**exponent] for size in SIZES})
    assert found.exponent == pytest.approx(exponent)
    assert found.error == pytest.approx(0, abs=1e-6)


def test_fixed_cost_does_not_hide_growth() -> None:
    assert growth({size: [1e9 + size**2] for size in SIZES}).exponent > 1.4


def test_all_sizes_of_a_narrow_range_are_used() -> None:
    assert growth({1: [1.0], 2: [2.0], 3: [3.0], 4: [4.0]}).exponent == pytest.approx(1)


def test_costs_below_the_resolution_do_not_grow() -> None:
    idle = line(lambda _: -0.5)
    assert idle.growth.exponent == pytest.approx(0)
    assert svg(Series("sockets", [Panel("idle", "us", [idle])]))


@pytest.mark.parametrize(
    ("cost", "work", "is_too_fast"),
    [
        (lambda _: 5.0, CONSTANT, False),
        (lambda size: size**0.05, CONSTANT, False),
        (lambda size: 5.0 + size / 100, CONSTANT, True),
        (lambda size: size / 100, PROPORTIONAL, False),
        (lambda size: 2.0 + size / 100, PROPORTIONAL, False),
        (lambda size: size**1.3, PROPORTIONAL, True),
        (lambda size: size**2, PROPORTIONAL, True),
    ],
)
def test_cost_that_grows_faster_than_its_work_is_recognised(cost: Callable[[int], float], work: float, is_too_fast: bool) -> None:
    assert line(cost, work).is_faster_than_its_work is is_too_fast


def series() -> Series:
    lines = [line(lambda _: 650, label="instance"), line(lambda size: 2 + size / 1000, label="Redis & co")]
    return Series("sessions", [Panel("read", "us", lines), Panel("all", "s", [line(lambda size: size / 1e4, PROPORTIONAL)])])


def test_table_has_both_ends_and_marks_fast_growth() -> None:
    _, _, flat, growing, linear = table(series()).splitlines()
    assert flat.startswith("| read, us: instance | 1,000: 650 | 1,000,000: 650 | 0.00 ±")
    assert "faster than its work" in growing
    assert "faster than its work" not in flat + linear
    assert series().too_fast == ["read: Redis & co"]


def test_plot_is_reproducible_svg() -> None:
    drawn = svg(series())
    texts = [element.text for element in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314
    assert {"read, us", "all, s", "instance", "Redis & co", "1k", "1M"} <= set(texts)
    assert "650, n^0.00" in texts
    assert "100, n^1.00 (work n^1)" in texts
    assert sum("too fast" in (text or "") for text in texts) == 1
    assert svg(series()) == drawn


@pytest.mark.parametrize("positions", [[10.0, 10.0, 10.0], [190.0, 195.0], [5.0, 100.0, 101.0, 199.0]])
def test_labels_do_not_overlap(positions: list[float]) -> None:
    moved = spread_labels(positions, 0, 200)
    assert all(later - earlier >= LABEL_HEIGHT for earlier, later in pairwise(sorted(moved)))
    assert min(moved) >= 0
    assert max(moved) <= 200


def test_cost_axis() -> None:
    lowest, highest = axis_range([100.0, 101.0])
    assert highest / lowest == pytest.approx(10)
    assert ticks(lowest, highest) == [50, 100, 200]
    assert ticks(0.5, 2e5) == [1, 10, 100, 1_000, 10_000, 100_000]
    assert [short_number(size) for size in (4, 2_500, 1_000_000)] == ["4", "2.5k", "1M"]
