"""How points in time are written everywhere."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(moment: datetime | int | float) -> str:
    """`2025-10-03T20:00:00.000Z`, of a datetime or of seconds since 1970."""
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
