from __future__ import annotations

import random
import statistics

import pytest

from app.health.latency import FASTEST_SECONDS, GROWTH, SLOWEST_SECONDS, WINDOW_SECONDS, ResponseTimes
from tests.unit.conftest import Clock

ERROR = GROWTH**0.5 - 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(now=1000.0)
    monkeypatch.setattr("app.health.latency.time", clock)
    return clock


@pytest.fixture
def times(clock: Clock) -> ResponseTimes:
    return ResponseTimes()


def test_without_responses_there_is_no_percentile(times: ResponseTimes) -> None:
    assert times.percentile(95) is None


@pytest.mark.parametrize("seconds", [FASTEST_SECONDS, 0.00123, 0.01, 0.4999, 0.5, 0.51, 1.0, 7.0, 99.0])
def test_percentile_of_one_response_is_exact_to_five_percent(times: ResponseTimes, seconds: float) -> None:
    times.observe(seconds)
    assert ERROR < 0.05
    assert times.percentile(95) == pytest.approx(seconds, rel=ERROR + 1e-9)


@pytest.mark.parametrize(("seconds", "counted_as"), [(0.0, FASTEST_SECONDS), (-1.0, FASTEST_SECONDS), (86400.0, SLOWEST_SECONDS)])
def test_value_out_of_range_counts_as_the_nearest_bucket(times: ResponseTimes, seconds: float, counted_as: float) -> None:
    times.observe(seconds)
    assert times.percentile(95) == pytest.approx(counted_as, rel=GROWTH - 1)


def test_95th_percentile_ignores_the_slowest_five_percent(times: ResponseTimes) -> None:
    for number in range(100):
        times.observe(2.0 if number < 5 else 0.01)
    assert times.percentile(95) == pytest.approx(0.01, rel=ERROR)
    times.observe(2.0)
    assert times.percentile(95) == pytest.approx(2.0, rel=ERROR)


@pytest.mark.parametrize("percent", [50, 95, 99])
def test_percentile_matches_the_exact_quantile(times: ResponseTimes, clock: Clock, percent: int) -> None:
    chance = random.Random(7)  # noqa: S311
    seconds = [chance.lognormvariate(-3, 1.5) for _ in range(5000)]
    for number, value in enumerate(seconds):
        clock.now = 1000 + number * (WINDOW_SECONDS - 1) / len(seconds)
        times.observe(value)
    exact = statistics.quantiles(seconds, n=100)[percent - 1]
    assert times.percentile(percent) == pytest.approx(exact, rel=ERROR + 0.01)


def test_responses_older_than_the_window_do_not_count(times: ResponseTimes, clock: Clock) -> None:
    times.observe(5.0)
    clock.now += WINDOW_SECONDS - 1
    for _ in range(3):
        times.observe(0.01)
    assert times.percentile(95) == pytest.approx(5.0, rel=ERROR)
    clock.now += 1
    assert times.percentile(95) == pytest.approx(0.01, rel=ERROR)
    clock.now += 3600
    assert times.percentile(95) is None
    times.observe(1.0)
    assert times.percentile(95) == pytest.approx(1.0, rel=ERROR)


def test_memory_does_not_grow_with_the_number_of_responses(times: ResponseTimes, clock: Clock) -> None:
    for _ in range(10 * WINDOW_SECONDS):
        clock.now += 1
        for _ in range(20):
            times.observe(0.2)
    assert len(times._rows) == WINDOW_SECONDS
    assert sum(times._totals) == 20 * WINDOW_SECONDS
