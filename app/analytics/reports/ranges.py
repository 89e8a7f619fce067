"""The time range of a report, and its division into whole days, whole hours and partial hours."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.core import timestamps
from app.core.errors import Invalid
from app.core.timestamps import DAY, HOUR, LENGTHS, floor

PARTIAL_HOUR = "partial hour"  # counted from the events themselves, as there are no rollups for it
FINER = {DAY: HOUR, HOUR: PARTIAL_HOUR}

MAX_INTERVALS = {HOUR: 32 * 24, DAY: 3660}  # in one report
DEFAULT_LENGTH = timedelta(days=30)


@dataclass(frozen=True)
class RangePart:
    grain: str  # DAY, HOUR or PARTIAL_HOUR
    start: datetime
    end: datetime


@dataclass(frozen=True)
class TimeRange:
    """From `since` (inclusive) to `until` (exclusive), reported by `interval` (HOUR or DAY)."""

    since: datetime
    until: datetime
    interval: str

    def starts(self) -> list[datetime]:
        """The start of each interval; the first may be before `since`."""
        first, length = floor(self.since, self.interval), LENGTHS[self.interval]
        return [first + number * length for number in range(_count_intervals(self))]


def split_range(since: datetime, until: datetime, grain: str = DAY) -> list[RangePart]:
    """Return the parts in order: whole intervals of the grain, and finer ones at both ends, each within one interval."""
    if since >= until:
        return []
    if grain == PARTIAL_HOUR:
        return [RangePart(PARTIAL_HOUR, since, until)]
    first, last = ceiling(since, grain), floor(until, grain)
    if first > last:
        return split_range(since, until, FINER[grain])
    whole = [RangePart(grain, first, last)] if first < last else []
    return split_range(since, first, FINER[grain]) + whole + split_range(last, until, FINER[grain])


def ceiling(timestamp: datetime, grain: str) -> datetime:
    """Round up to the start of an hour or day."""
    below = floor(timestamp, grain)
    return below if below == timestamp else below + LENGTHS[grain]


def resolve(since: datetime | None, until: datetime | None, interval: str, now: datetime) -> TimeRange:
    """Apply the defaults (the last 30 days) and limits. Raises Invalid.

    A range that ends now or later is extended to the end of the current interval, which has been counted already.
    """
    until = ceiling(now, interval) if until is None else until
    if until >= now:
        until = ceiling(until, interval)
    found = TimeRange(until - DEFAULT_LENGTH if since is None else since, until, interval)
    if found.since >= found.until:
        raise Invalid.field("from", "from must be before to.")
    if (count := _count_intervals(found)) > MAX_INTERVALS[interval]:
        hint = "Choose a shorter range, or days." if interval == HOUR else "Choose a shorter range."
        raise Invalid.field("from", f"This range has {count:,} {interval}s. The limit is {MAX_INTERVALS[interval]:,}. {hint}")
    return found


def parse(field: str, text: str) -> datetime | None:
    """Parse an ISO 8601 timestamp with a time zone, or a date (midnight UTC). Returns None for "". Raises Invalid."""
    if not text:
        return None
    try:
        return timestamps.parse(text.replace(" ", "+") if "T" in text else text)  # a + in a query string means a space
    except ValueError:
        message = f"{field} must be a date such as 2025-10-03, or a timestamp such as 2025-10-03T20:00:00Z."
        raise Invalid.field(field, message) from None


def _count_intervals(of: TimeRange) -> int:
    return -((floor(of.since, of.interval) - of.until) // LENGTHS[of.interval])
