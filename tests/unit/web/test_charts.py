"""Coordinates of charts."""

from __future__ import annotations

from app.web import charts
from app.web.charts import Bar


def test_spokes_start_at_the_top_and_run_clockwise() -> None:
    points = [charts.spoke(index, 6) for index in range(6)]
    assert points == [(0, -90), (77.9, -45), (77.9, 45), (0, 90), (-77.9, 45), (-77.9, -45)]


def test_ring_has_a_corner_on_each_spoke() -> None:
    assert charts.ring(60, 4) == "0,-60 60,0 0,60 -60,0"


def test_scores_lie_on_their_spokes() -> None:
    assert charts.dots([100, 50, 0, 10]) == [(0, -90), (45, 0), (0, 0), (-9, 0)]
    assert charts.outline([100, 50, 0, 10]) == "0,-90 45,0 0,0 -9,0"


def test_missing_score_has_no_dot() -> None:
    assert charts.dots([100, None, None, 10]) == [(0, -90), (-9, 0)]
    assert charts.outline([None] * 6) == ""


def test_bar_heights_are_relative_to_the_largest_value() -> None:
    assert charts.bars([10, 5, 0], 300, 80) == [Bar(0, 0, 80, 80), Bar(100, 40, 80, 40), Bar(200, 80, 80, 0)]


def test_small_bar_has_a_minimum_height() -> None:
    assert charts.bars([1, 10_000], 200, 80)[0] == Bar(0, 79, 80, 1)


def test_no_bars_and_empty_bars() -> None:
    assert charts.bars([], 300, 80) == []
    assert charts.bars([0], 300, 80) == [Bar(0, 80, 240, 0)]


def test_columns_stand_side_by_side() -> None:
    assert charts.columns([10, 0, 5], 100) == "M0 100V0h1V100M2 100V50h1V100"
    assert charts.columns([1, 10_000], 100) == "M0 100V98h1V100M1 100V0h1V100"


def test_no_columns_and_empty_columns() -> None:
    assert charts.columns([], 100) == charts.columns([0, 0], 100) == ""


def test_shares_fill_the_width() -> None:
    assert charts.shares([3, 1], 400) == [Bar(0, 0, 300, 1), Bar(300, 0, 100, 1)]
    assert charts.shares([0, 0], 400) == [Bar(0, 0, 0, 1), Bar(0, 0, 0, 1)]
    assert charts.shares([], 400) == []


def test_polyline_follows_time() -> None:
    assert charts.polylines([1000, 1100, 1400], [0, 50, 100], 400, 100) == ["0,100 100,50 400,0"]


def test_missing_score_splits_the_polyline() -> None:
    assert charts.polylines([0, 1, 2, 4], [10, None, 20, 30], 400, 100) == ["0,90 0,90", "200,80 400,70"]


def test_polylines_of_one_time_and_of_none() -> None:
    assert charts.polylines([5], [40], 400, 100) == ["0,60 0,60"]
    assert charts.polylines([5, 5], [40, 60], 400, 100) == ["0,60 0,40"]
    assert charts.polylines([], [], 400, 100) == []
