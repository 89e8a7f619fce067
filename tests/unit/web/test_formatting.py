"""Formats of times, numbers and texts on pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from app.web import formatting

NOON = datetime(2025, 10, 3, 12, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "timestamp", [NOON, 1_759_493_100, "2025-10-03T12:05:00Z", NOON.astimezone(timezone(timedelta(hours=9)))], ids=str
)
def test_all_timestamp_types(timestamp: formatting.Timestamp) -> None:
    assert formatting.utc(timestamp) == "3 October 2025, 12:05 UTC"
    assert formatting.day(timestamp) == "3 October 2025"


@pytest.mark.parametrize(
    ("since", "until", "text"),
    [
        ("2025-10-03T00:00:00Z", "2025-10-04T00:00:00Z", "3 October 2025"),
        ("2025-10-03T00:00:00Z", "2025-10-08T00:00:00Z", "3 October 2025 to 7 October 2025"),
        ("2025-10-03T00:00:00Z", "2025-10-03T12:05:00Z", "3 October 2025, 00:00 UTC to 3 October 2025, 12:05 UTC"),
        ("2025-10-03T00:00:00.001Z", "2025-10-04T00:00:00Z", "3 October 2025, 00:00 UTC to 4 October 2025, 00:00 UTC"),
    ],
)
def test_period(since: str, until: str, text: str) -> None:
    assert formatting.period(since, until) == text


def test_month() -> None:
    assert formatting.month("2025-02") == "February 2025"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3600, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (7199, "1 hour ago"),
        (2 * 86_400, "2 days ago"),
        (45 * 86_400, "1 month ago"),
        (694 * 86_400, "23 months ago"),
        (800 * 86_400, "2 years ago"),
    ],
)
def test_ago(seconds: int, text: str) -> None:
    assert formatting.ago(datetime.now(UTC) - timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(("seconds", "text"), [("1", "a minute"), ("60", "a minute"), ("61", "2 minutes")])
def test_retry_delay(seconds: str, text: str) -> None:
    assert formatting.retry_delay(seconds) == text


def test_numbers() -> None:
    assert formatting.number(12_345) == "12,345"
    assert formatting.number(0) == "0"
    assert formatting.number(None) == "–"
    assert formatting.quantity(1, "commit") == "1 commit"
    assert formatting.quantity(12_345, "commit") == "12,345 commits"


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(1, 3, "33.3 %"), (1, 10_000, "< 0.1 %"), (0, 5, "0.0 %"), (0, 0, "0.0 %"), (5, 5, "100.0 %")]
)
def test_percent(part: int, whole: int, text: str) -> None:
    assert formatting.percent(part, whole) == text


def test_control_characters_are_escaped() -> None:
    assert formatting.visible("src/größe 日本.py") == "src/größe 日本.py"
    assert formatting.visible("a\u202egnp.exe\x1b[31m\n\t\ud800") == r"a\u202egnp.exe\x1b[31m\n\t\ud800"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 seconds"), (1.9, "1 second"), (59, "59 seconds"), (60, "1 minute")])
def test_duration(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


def test_clock() -> None:
    assert formatting.clock("2025-10-03T12:05:09Z") == "12:05:09 UTC"
