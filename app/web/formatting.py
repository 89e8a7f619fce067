"""Formats times, numbers and untrusted texts for pages; most functions are template filters."""

from datetime import UTC, datetime, time, timedelta

Timestamp = datetime | int | str  # a datetime, seconds since 1970, or ISO 8601 as in reports

MIDNIGHT = time()
UNITS = ((365 * 86_400, "year"), (30 * 86_400, "month"), (86_400, "day"), (3600, "hour"), (60, "minute"))


def utc(timestamp: Timestamp) -> str:
    """Return `3 October 2025, 20:00 UTC`."""
    return f"{day(timestamp)}, {_datetime(timestamp):%H:%M} UTC"


def day(timestamp: Timestamp) -> str:
    """Return `3 October 2025`."""
    when = _datetime(timestamp)
    return f"{when.day} {when:%B %Y}"


def period(since: Timestamp, until: Timestamp) -> str:
    """Return `3 October 2025 to 7 October 2025` with an inclusive last day, or both times if one is not midnight."""
    first, end = _datetime(since), _datetime(until)
    if first.time() != MIDNIGHT or end.time() != MIDNIGHT:
        return f"{utc(since)} to {utc(until)}"
    last = end - timedelta(days=1)
    return day(first) if first.date() == last.date() else f"{day(first)} to {day(last)}"


def clock(timestamp: Timestamp) -> str:
    """Return `20:00:07 UTC`."""
    return f"{_datetime(timestamp):%H:%M:%S} UTC"


def month(name: str) -> str:
    """Return `October 2025` for `2025-10`."""
    return f"{datetime.strptime(name, '%Y-%m').replace(tzinfo=UTC):%B %Y}"


def ago(timestamp: Timestamp) -> str:
    """Return `3 hours ago`. Times in the future, which come from clock skew, are `just now`."""
    seconds = (datetime.now(UTC) - _datetime(timestamp)).total_seconds()
    return "just now" if seconds < 60 else f"{duration(seconds)} ago"


def duration(seconds: float) -> str:
    """Return `3 hours` or `12 seconds`. Below two years, months are counted: `1 year` would hide most of them."""
    for length, unit in UNITS:
        if seconds >= (2 * length if unit == "year" else length):
            return quantity(int(seconds // length), unit)
    return quantity(int(seconds), "second")


def retry_delay(seconds: str) -> str:
    """Return `a minute` or `3 minutes`, rounded up, for a Retry-After header."""
    minutes = -(-int(seconds) // 60)
    return "a minute" if minutes <= 1 else f"{minutes} minutes"


def number(value: float | None) -> str:
    """Return `12,345`, or a dash for None."""
    return "–" if value is None else f"{value:,}"


def quantity(count: int, unit: str) -> str:
    """Return `1 commit` or `12,345 commits`."""
    return f"{number(count)} {unit}{'' if count == 1 else 's'}"


def percent(part: float, whole: float) -> str:
    share = 100 * part / whole if whole else 0.0
    return "< 0.1 %" if 0 < share < 0.1 else f"{share:.1f} %"


def visible(text: str) -> str:
    """Escape control characters and bidirectional marks, which would change how the rest of the text looks."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _datetime(timestamp: Timestamp) -> datetime:
    if isinstance(timestamp, str):
        timestamp = datetime.fromisoformat(timestamp)
    if isinstance(timestamp, int):
        timestamp = datetime.fromtimestamp(timestamp, UTC)
    return timestamp.astimezone(UTC)
