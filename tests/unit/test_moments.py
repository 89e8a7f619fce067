from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from app.moments import iso


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2025, 10, 3, 20, 0, 0, 123_999, tzinfo=UTC),
        datetime(2025, 10, 3, 22, 0, 0, 123_000, tzinfo=timezone(timedelta(hours=2))),
        1_759_521_600.123,
    ],
)
def test_times_are_iso_8601_in_utc_with_milliseconds(moment: datetime | float) -> None:
    assert iso(moment) == "2025-10-03T20:00:00.123Z"
