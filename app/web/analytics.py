"""The analytics page for administrators: usage over a time range, funnels, and exports."""

from datetime import UTC, date, datetime, timedelta

from flask import request
from werkzeug import Response

from app.analytics.catalogue import BY_NAME
from app.analytics.reports import ranges
from app.analytics.reports.ranges import TimeRange
from app.analytics.reports.views import reports
from app.core.errors import Invalid
from app.core.timestamps import DAY, HOUR, LENGTHS, floor
from app.web import formatting
from app.web.exports import exports_context
from app.web.pages import administrators_only, blueprint, current_notice, render

PRESETS = {  # title, length, interval; each ends with the current interval
    "24h": ("Last 24 hours", timedelta(hours=24), HOUR),
    "7d": ("7 days", timedelta(days=7), DAY),
    "30d": ("30 days", timedelta(days=30), DAY),
    "12m": ("12 months", timedelta(days=365), DAY),
}
DEFAULT_PRESET = "30d"
MAX_HOURLY = timedelta(days=3)  # longer custom ranges are shown by day


@blueprint.get("/admin/analytics")
@administrators_only
def analytics() -> Response:
    """Takes `range=7d` (one of PRESETS) or `from=2025-10-01&to=2025-10-03` (both inclusive)."""
    dates = {name: request.args.get(name, "").strip() for name in ("from", "to")}
    preset = None if any(dates.values()) else request.args.get("range", DEFAULT_PRESET)
    now, problem = datetime.now(UTC), None
    try:
        time_range = custom_range(dates["from"], dates["to"], now) if preset is None else preset_range(preset, now)
    except Invalid as invalid:
        time_range, problem = preset_range(DEFAULT_PRESET, now), invalid
    overview = reports().overview(time_range)
    format_start = formatting.utc if time_range.interval == HOUR else formatting.day
    return render(
        "analytics.html",
        problem,
        time_range=time_range,
        notice=current_notice(),
        typed={name: _date_input(name, text) for name, text in dates.items()},
        preset=preset,
        presets=PRESETS,
        overview=overview,
        labels=[format_start(interval.start) for interval in overview.series],
        declared_events=BY_NAME,
        **exports_context() | {"first_day": time_range.since.date().isoformat(), "last_day": _last_day(time_range).isoformat()},
    )


def preset_range(name: str, now: datetime) -> TimeRange:
    _, length, interval = PRESETS.get(name, PRESETS[DEFAULT_PRESET])
    until = ranges.ceiling(now, interval)
    return TimeRange(until - length, until, interval)


def custom_range(first: str, last: str, now: datetime) -> TimeRange:
    """Raises Invalid."""
    since, until = ranges.parse("from", first), ranges.parse("to", last)
    end = floor(until, DAY) + LENGTHS[DAY] if until else None
    by_day = ranges.resolve(since, end, DAY, now)
    return TimeRange(by_day.since, by_day.until, HOUR if by_day.until - by_day.since <= MAX_HOURLY else DAY)


def _last_day(time_range: TimeRange) -> date:
    return (time_range.until - timedelta(microseconds=1)).date()


def _date_input(name: str, text: str) -> str:
    """Return the value for a date input; "" if the text is not a date."""
    try:
        timestamp = ranges.parse(name, text)
    except Invalid:
        return ""
    return timestamp.date().isoformat() if timestamp else ""
