"""The page of analytics, for administrators: what was used in a range of time, and how far people came."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from flask import request
from werkzeug import Response

from app.analytics.catalogue import BY_NAME
from app.analytics.reports import ranges
from app.analytics.reports.ranges import Range
from app.analytics.reports.views import insights as the_insights
from app.core.errors import Invalid
from app.core.timestamps import DAY, HOUR, LENGTHS, floor
from app.web import formatting
from app.web.exports import exports_for_page
from app.web.pages import administrators_only, blueprint, current_notice, render

# Title, length, what it is told by. Each ends with the interval that is under way.
USUAL = {
    "24h": ("Last 24 hours", timedelta(hours=24), HOUR),
    "7d": ("7 days", timedelta(days=7), DAY),
    "30d": ("30 days", timedelta(days=30), DAY),
    "12m": ("12 months", timedelta(days=365), DAY),
}
DEFAULT = "30d"
HOURLY = timedelta(days=3)  # own dates, up to so many days


@blueprint.get("/admin/analytics")
@administrators_only
def analytics() -> Response:
    """`range=7d`, one of USUAL, or own dates: `from=2025-10-01&to=2025-10-03`, the last of them included."""
    own = {name: request.args.get(name, "").strip() for name in ("from", "to")}
    wanted = None if any(own.values()) else request.args.get("range", DEFAULT)
    now, problem = datetime.now(UTC), None
    try:
        asked = own_dates(own["from"], own["to"], now) if wanted is None else usual(wanted, now)
    except Invalid as invalid:
        asked, problem = usual(DEFAULT, now), invalid
    overview = the_insights().overview(asked)
    return render(
        "analytics.html",
        problem,
        asked=asked,
        notice=current_notice(),
        typed={name: _as_date(name, text) for name, text in own.items()},
        wanted=wanted,
        usual=USUAL,
        overview=overview,
        labels=[formatting.utc(part.start) if asked.interval == HOUR else formatting.day(part.start) for part in overview.series],
        collected=BY_NAME,
        **exports_for_page() | {"first_day": asked.since.date().isoformat(), "last_day": _last_day(asked).isoformat()},
    )


def usual(name: str, now: datetime) -> Range:
    _, length, interval = USUAL.get(name, USUAL[DEFAULT])
    until = ranges.ceiling(now, interval)
    return Range(until - length, until, interval)


def own_dates(first: str, last: str, now: datetime) -> Range:
    """Raises Invalid."""
    since, until = ranges.read("from", first), ranges.read("to", last)
    after = floor(until, DAY) + LENGTHS[DAY] if until else None
    in_days = ranges.chosen(since, after, DAY, now)
    return Range(in_days.since, in_days.until, HOUR if in_days.until - in_days.since <= HOURLY else DAY)


def _last_day(asked: Range) -> date:
    return (asked.until - timedelta(microseconds=1)).date()


def _as_date(name: str, text: str) -> str:
    """As a field for dates takes it; nothing, if it is no date."""
    try:
        moment = ranges.read(name, text)
    except Invalid:
        return ""
    return moment.date().isoformat() if moment else ""
