"""`/api/analytics/summary`: the stored events in numbers, for administrators."""

from datetime import UTC, datetime
from typing import Literal

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict, Field

from app.analytics.reports import ranges
from app.analytics.reports.service import MAX_NAMES, AnalyticsReports
from app.auth.guards import admin_required
from app.core.extensions import extension
from app.core.timestamps import DAY, iso
from app.http.api import Query, json_response, operation

blueprint = Blueprint("insights", __name__, url_prefix="/api/analytics")  # the name is part of the operation's id in OpenAPI


class IntervalView(BaseModel):
    start: str
    events: int
    visitors: int


class SummaryView(BaseModel):
    """The events from `from` (inclusive) to `to` (exclusive). The first and last interval may be partial."""

    model_config = ConfigDict(serialize_by_alias=True)

    from_: str = Field(alias="from")
    to: str
    interval: str
    total_events: int
    by_name: dict[str, int] = Field(description=f"The {MAX_NAMES:,} most frequent names; `total_events` counts all")
    by_category: dict[str, int] = Field(description=f"The {MAX_NAMES:,} most frequent categories")
    series: list[IntervalView]


class SummaryQuery(Query):
    from_: str = Field(
        "", alias="from", description="ISO 8601 timestamp with a time zone, or a date (UTC). Default: 30 days before `to`"
    )
    to: str = Field(
        "", description="Likewise. Default: the end of the current interval, as for every time that is not in the past"
    )
    interval: Literal["hour", "day"] = DAY  # type: ignore[assignment]


@blueprint.get("/summary")
@operation(
    "Events and visitors over time, by name and by category",
    query=SummaryQuery,
    returns={200: SummaryView},
    errors=(401, 403),
)
@admin_required
def summary(query: SummaryQuery) -> Response:
    since, until = ranges.parse("from", query.from_), ranges.parse("to", query.to)
    time_range = ranges.resolve(since, until, query.interval, datetime.now(UTC))
    found = reports().summary(time_range)
    series = [
        IntervalView(start=iso(interval.start), events=interval.events, visitors=interval.visitors) for interval in found.series
    ]
    view = SummaryView(
        **{"from": iso(time_range.since)},
        to=iso(time_range.until),
        interval=time_range.interval,
        total_events=found.total_events,
        by_name=found.by_name,
        by_category=found.by_category,
        series=series,
    )
    return json_response(view)


def reports() -> AnalyticsReports:
    return extension(AnalyticsReports, "analytics_reports")
