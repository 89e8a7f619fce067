"""How pages put things."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from app.web import words

NOON = datetime(2025, 10, 3, 12, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "moment", [NOON, 1_759_493_100, "2025-10-03T12:05:00Z", NOON.astimezone(timezone(timedelta(hours=9)))], ids=str
)
def test_moments_of_all_kinds(moment: words.Moment) -> None:
    assert words.utc(moment) == "3 October 2025, 12:05 UTC"
    assert words.day(moment) == "3 October 2025"


@pytest.mark.parametrize(
    ("since", "until", "text"),
    [
        ("2025-10-03T00:00:00Z", "2025-10-04T00:00:00Z", "3 October 2025"),
        ("2025-10-03T00:00:00Z", "2025-10-08T00:00:00Z", "3 October 2025 to 7 October 2025"),
        ("2025-10-03T00:00:00Z", "2025-10-03T12:05:00Z", "3 October 2025, 00:00 UTC to 3 October 2025, 12:05 UTC"),
        ("2025-10-03T00:00:00.001Z", "2025-10-04T00:00:00Z", "3 October 2025, 00:00 UTC to 4 October 2025, 00:00 UTC"),
    ],
)
def test_a_period(since: str, until: str, text: str) -> None:
    assert words.period(since, until) == text


def test_a_month() -> None:
    assert words.month("2025-02") == "February 2025"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3600, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (7199, "1 hour ago"),
        (2 * 86_400, "2 days ago"),
        (45 * 86_400, "1 month ago"),
        (800 * 86_400, "2 years ago"),
    ],
)
def test_how_long_ago(seconds: int, text: str) -> None:
    assert words.ago(datetime.now(UTC) - timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(("seconds", "text"), [("1", "a minute"), ("60", "a minute"), ("61", "2 minutes")])
def test_waiting_time(seconds: str, text: str) -> None:
    assert words.waiting_time(seconds) == text


def test_numbers() -> None:
    assert words.number(12_345) == "12,345"
    assert words.number(0) == "0"
    assert words.number(None) == "–"
    assert words.counted(1, "commit") == "1 commit"
    assert words.counted(12_345, "commit") == "12,345 commits"


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(1, 3, "33.3 %"), (1, 10_000, "< 0.1 %"), (0, 5, "0.0 %"), (0, 0, "0.0 %"), (5, 5, "100.0 %")]
)
def test_percent(part: int, whole: int, text: str) -> None:
    assert words.percent(part, whole) == text


def test_what_would_change_the_looks_of_a_text_becomes_visible() -> None:
    assert words.visible("src/größe 日本.py") == "src/größe 日本.py"
    assert words.visible("a\u202egnp.exe\x1b[31m\n\t\ud800") == r"a\u202egnp.exe\x1b[31m\n\t\ud800"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 seconds"), (1.9, "1 second"), (59, "59 seconds"), (60, "1 minute")])
def test_how_long_it_lasts(seconds: float, text: str) -> None:
    assert words.lasting(seconds) == text


def test_the_time_of_day() -> None:
    assert words.clock("2025-10-03T12:05:09Z") == "12:05:09 UTC"
