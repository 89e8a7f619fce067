"""The places of charts."""

from __future__ import annotations

from app.web import charts
from app.web.charts import Bar


def test_the_first_spoke_points_up_and_the_others_follow_clockwise() -> None:
    places = [charts.spoke(index, 6) for index in range(6)]
    assert places == [(0, -90), (77.9, -45), (77.9, 45), (0, 90), (-77.9, 45), (-77.9, -45)]


def test_a_ring_is_a_polygon_with_a_corner_on_each_spoke() -> None:
    assert charts.ring(60, 4) == "0,-60 60,0 0,60 -60,0"


def test_scores_lie_on_their_spokes() -> None:
    assert charts.blips([100, 50, 0, 10]) == [(0, -90), (45, 0), (0, 0), (-9, 0)]
    assert charts.outline([100, 50, 0, 10]) == "0,-90 45,0 0,0 -9,0"


def test_what_has_no_score_has_no_place() -> None:
    assert charts.blips([100, None, None, 10]) == [(0, -90), (-9, 0)]
    assert charts.outline([None] * 6) == ""


def test_bars_are_as_high_as_their_share_in_the_largest() -> None:
    assert charts.bars([10, 5, 0], 300, 80) == [Bar(0, 0, 80, 80), Bar(100, 40, 80, 40), Bar(200, 80, 80, 0)]


def test_a_small_bar_can_still_be_seen() -> None:
    assert charts.bars([1, 10_000], 200, 80)[0] == Bar(0, 79, 80, 1)


def test_no_bars_and_empty_bars() -> None:
    assert charts.bars([], 300, 80) == []
    assert charts.bars([0], 300, 80) == [Bar(0, 80, 240, 0)]


def test_shares_fill_the_width() -> None:
    assert charts.shares([3, 1], 400) == [Bar(0, 0, 300, 1), Bar(300, 0, 100, 1)]
    assert charts.shares([0, 0], 400) == [Bar(0, 0, 0, 1), Bar(0, 0, 0, 1)]
    assert charts.shares([], 400) == []


def test_a_curve_follows_time() -> None:
    assert charts.lines([1000, 1100, 1400], [0, 50, 100], 400, 100) == ["0,100 100,50 400,0"]


def test_a_curve_is_interrupted_where_a_score_is_missing() -> None:
    assert charts.lines([0, 1, 2, 4], [10, None, 20, 30], 400, 100) == ["0,90", "200,80 400,70"]


def test_curves_of_one_moment_and_of_none() -> None:
    assert charts.lines([5], [40], 400, 100) == ["0,60"]
    assert charts.lines([5, 5], [40, 60], 400, 100) == ["0,60 0,40"]
    assert charts.lines([], [], 400, 100) == []
