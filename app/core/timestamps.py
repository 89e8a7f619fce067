"""How points in time are written everywhere, and the hours and days that they lie in."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta


def iso(moment: datetime | int | float) -> str:
    """`2025-10-03T20:00:00.000Z`, of a datetime or of seconds since 1970."""
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse(text: str) -> datetime:
    """Of ISO 8601 with a zone, or of a date, which is its midnight in UTC. Raises ValueError, for one beyond the LIMITS too."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = datetime.combine(date.fromisoformat(text), time.min, UTC)
    if not LIMITS[0] <= moment < LIMITS[1]:
        raise ValueError(text)
    return moment.astimezone(UTC)


# What others give. At the ends of the calendar a zone leads beyond it, here and in the database.
LIMITS = datetime(1970, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)

HOUR, DAY = "hour", "day"
LENGTHS = {HOUR: timedelta(hours=1), DAY: timedelta(days=1)}


def floor(moment: datetime, grain: str) -> datetime:
    """The beginning of the hour or the day (UTC) that a moment lies in."""
    moment = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return moment.replace(hour=0) if grain == DAY else moment
