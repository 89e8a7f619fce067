"""Timestamps of git, and lengths of time in seconds."""

from datetime import UTC, datetime

DAY_SECONDS = 86_400
WEEK_SECONDS = 7 * DAY_SECONDS
QUARTER_SECONDS = 90 * DAY_SECONDS
YEAR_SECONDS = 365 * DAY_SECONDS

MAX_TIMESTAMP = 253_402_300_799  # 9999-12-31T23:59:59Z, the maximum of `datetime`
WEEKDAY_OF_1970 = 3  # the first day of 1970 was a Thursday


def iso(timestamp: int) -> str:
    """Format a Unix timestamp as `2025-10-03T20:00:00Z`. Later dates than the year 9999 become the end of that year."""
    return datetime.fromtimestamp(min(timestamp, MAX_TIMESTAMP), UTC).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")


def parse_timestamp(text: bytes) -> int:
    """Parse a Unix timestamp from git. Dates that git can't read count as 0, as they do in git itself."""
    return int(text) if text.isdigit() else 0


def week_number(timestamp: int) -> int:
    """Return the number of weeks between the week of 1970-01-01 and the week of the timestamp. Weeks begin on Mondays in UTC."""
    return (timestamp // DAY_SECONDS + WEEKDAY_OF_1970) // 7


def first_day(week: int) -> str:
    """Return the Monday of a week as `2025-09-29`."""
    return iso((week * 7 - WEEKDAY_OF_1970) * DAY_SECONDS)[:10]
