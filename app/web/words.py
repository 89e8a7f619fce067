"""How pages put moments, numbers and the words of strangers."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

Moment = datetime | int | str  # a datetime, seconds since 1970, or ISO 8601 as reports have it

MIDNIGHT = time()
UNITS = ((365 * 86_400, "year"), (30 * 86_400, "month"), (86_400, "day"), (3600, "hour"), (60, "minute"))


def utc(moment: Moment) -> str:
    """`3 October 2025, 20:00 UTC`."""
    return f"{day(moment)}, {_datetime(moment):%H:%M} UTC"


def day(moment: Moment) -> str:
    """`3 October 2025`."""
    when = _datetime(moment)
    return f"{when.day} {when:%B %Y}"


def period(since: Moment, until: Moment) -> str:
    """`3 October 2025 to 7 October 2025`: whole days, the last one included; with the time where an end is no midnight."""
    first, end = _datetime(since), _datetime(until)
    if first.time() != MIDNIGHT or end.time() != MIDNIGHT:
        return f"{utc(since)} to {utc(until)}"
    last = end - timedelta(days=1)
    return day(first) if first.date() == last.date() else f"{day(first)} to {day(last)}"


def clock(moment: Moment) -> str:
    """`20:00:07 UTC`."""
    return f"{_datetime(moment):%H:%M:%S} UTC"


def month(name: str) -> str:
    """`October 2025`, of `2025-10`."""
    return f"{datetime.strptime(name, '%Y-%m').replace(tzinfo=UTC):%B %Y}"


def ago(moment: Moment) -> str:
    """`3 hours ago`; a moment of the future is `just now`, which is what a clock that is a little fast makes of the present."""
    seconds = (datetime.now(UTC) - _datetime(moment)).total_seconds()
    return "just now" if seconds < 60 else f"{lasting(seconds)} ago"


def lasting(seconds: float) -> str:
    """`3 hours`, `12 seconds`."""
    for length, unit in UNITS:
        if seconds >= length:
            return counted(int(seconds // length), unit)
    return counted(int(seconds), "second")


def waiting_time(seconds: str) -> str:
    minutes = -(-int(seconds) // 60)
    return "a minute" if minutes <= 1 else f"{minutes} minutes"


def number(value: float | None) -> str:
    """`12,345`; a dash for what is not known."""
    return "–" if value is None else f"{value:,}"


def counted(count: int, what: str) -> str:
    """`1 commit`, `12,345 commits`."""
    return f"{number(count)} {what}{'' if count == 1 else 's'}"


def percent(part: int, whole: int) -> str:
    share = 100 * part / whole if whole else 0.0
    return "< 0.1 %" if 0 < share < 0.1 else f"{share:.1f} %"


def visible(text: str) -> str:
    """Control characters and marks of direction, which would change how the rest looks, become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _datetime(moment: Moment) -> datetime:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, int):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC)
