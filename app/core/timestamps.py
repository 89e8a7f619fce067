"""Formatting, parsing and rounding of timestamps. All are in UTC."""

from datetime import UTC, date, datetime, time, timedelta


def iso(timestamp: datetime | int | float) -> str:
    """Format a datetime, or seconds since 1970, as `2025-10-03T20:00:00.000Z`."""
    if not isinstance(timestamp, datetime):
        timestamp = datetime.fromtimestamp(timestamp, UTC)
    return timestamp.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse(text: str) -> datetime:
    """Parse ISO 8601 with a time zone, or a date (midnight UTC). Raises ValueError, also outside of LIMITS."""
    timestamp = datetime.fromisoformat(text)
    if timestamp.tzinfo is None:
        timestamp = datetime.combine(date.fromisoformat(text), time.min, UTC)
    if not LIMITS[0] <= timestamp < LIMITS[1]:
        raise ValueError(text)
    return timestamp.astimezone(UTC)


# Accepted input. Near the ends of the calendar, a conversion between time zones would overflow.
LIMITS = datetime(1970, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)

HOUR, DAY = "hour", "day"
LENGTHS = {HOUR: timedelta(hours=1), DAY: timedelta(days=1)}


def floor(timestamp: datetime, grain: str) -> datetime:
    """Return the start of the hour or day (UTC) that contains a timestamp."""
    timestamp = timestamp.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return timestamp.replace(hour=0) if grain == DAY else timestamp
