from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from app.core.timestamps import iso, parse


@pytest.mark.parametrize(
    "timestamp",
    [
        datetime(2025, 10, 3, 20, 0, 0, 123_999, tzinfo=UTC),
        datetime(2025, 10, 3, 22, 0, 0, 123_000, tzinfo=timezone(timedelta(hours=2))),
        1_759_521_600.123,
    ],
)
def test_iso_is_utc_with_milliseconds(timestamp: datetime | float) -> None:
    assert iso(timestamp) == "2025-10-03T20:00:00.123Z"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-10-03T20:00:00Z", "2025-10-03T20:00:00.000Z"),
        ("2025-10-03T20:00:00.5+02:00", "2025-10-03T18:00:00.500Z"),
        ("2025-10-03", "2025-10-03T00:00:00.000Z"),
        ("1970-01-01", "1970-01-01T00:00:00.000Z"),
    ],
)
def test_parse_accepts_valid_timestamps(text: str, expected: str) -> None:
    assert iso(parse(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2025-10-03T20:00:00",  # of which zone?
        "2025-02-30",
        "1969-12-31",
        "3000-01-01",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ],
)
def test_parse_rejects_invalid_timestamps(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse(text)
