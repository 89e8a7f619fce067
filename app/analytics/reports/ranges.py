"""The range of time that somebody asks about, and the whole days, whole hours and remaining parts that it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.core import timestamps
from app.core.errors import Invalid
from app.core.timestamps import DAY, HOUR, LENGTHS, floor

PART = "part"  # of an hour: the only pieces that are read from the events themselves
FINER = {DAY: HOUR, HOUR: PART}

MOST = {HOUR: 32 * 24, DAY: 3660}  # intervals in one answer
USUAL = timedelta(days=30)


@dataclass(frozen=True)
class Piece:
    grain: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Range:
    """From `since` up to and without `until`; told by `interval`."""

    since: datetime
    until: datetime
    interval: str

    def starts(self) -> list[datetime]:
        """Of its intervals; the first may begin before the range does."""
        first, length = floor(self.since, self.interval), LENGTHS[self.interval]
        return [first + number * length for number in range(_count(self))]


def pieces(since: datetime, until: datetime, grain: str = DAY) -> list[Piece]:
    """In their order: whole intervals of the grain, and at its edges pieces of finer ones, which lie within one interval each."""
    if since >= until:
        return []
    if grain == PART:
        return [Piece(PART, since, until)]
    first, last = ceiling(since, grain), floor(until, grain)
    if first > last:
        return pieces(since, until, FINER[grain])
    whole = [Piece(grain, first, last)] if first < last else []
    return pieces(since, first, FINER[grain]) + whole + pieces(last, until, FINER[grain])


def ceiling(moment: datetime, grain: str) -> datetime:
    """The beginning of the next hour or day, unless the moment is one."""
    below = floor(moment, grain)
    return below if below == moment else below + LENGTHS[grain]


def chosen(since: datetime | None, until: datetime | None, interval: str, now: datetime) -> Range:
    """The last 30 days where nothing is said. Raises Invalid.

    What reaches up to now takes the interval that is under way as a whole: nothing of it is left out, and it is counted already.
    """
    until = ceiling(now, interval) if until is None else until
    if until >= now:
        until = ceiling(until, interval)
    found = Range(until - USUAL if since is None else since, until, interval)
    if found.since >= found.until:
        raise Invalid.field("from", "from has to be before to.")
    if (count := _count(found)) > MOST[interval]:
        way_out = "Choose a shorter range, or days." if interval == HOUR else "Choose a shorter range."
        raise Invalid.field("from", f"This range has {count:,} {interval}s, and at most {MOST[interval]:,} are shown. {way_out}")
    return found


def read(field: str, text: str) -> datetime | None:
    """A moment in ISO 8601 with its zone, or a date, which is its first moment in UTC; None for nothing. Raises Invalid."""
    if not text:
        return None
    try:
        return timestamps.parse(text.replace(" ", "+") if "T" in text else text)  # a + in an address is a space
    except ValueError:
        words = f"{field} has to be a date such as 2025-10-03, or a moment such as 2025-10-03T20:00:00Z."
        raise Invalid.field(field, words) from None


def _count(of: Range) -> int:
    return -((floor(of.since, of.interval) - of.until) // LENGTHS[of.interval])
