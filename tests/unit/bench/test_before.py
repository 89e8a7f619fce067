from __future__ import annotations

import pytest

from bench import before
from bench.before import ROUNDS


def test_interval_contains_the_mean() -> None:
    differences = [1.0, 3.0] * (ROUNDS // 2)  # with a standard deviation of 1.0445
    mean, low, high = before.interval(differences)
    assert mean == 2
    assert (mean - low, high - mean) == pytest.approx((0.6637, 0.6637), abs=1e-3)


def test_table_shows_what_has_become_faster() -> None:
    text = before.table({"read": [(100.0 + number % 2, 90.0) for number in range(ROUNDS)]})
    assert "| read | 100 | 90 | -10.5 | -10.8 to -10.2 |" in text
