"""`/api/analytics/summary`: what analytics has stored, in numbers, for administrators."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict, Field

from app.analytics.reports import ranges
from app.analytics.reports.service import MOST_NAMES, Insights
from app.auth.guards import admin_required
from app.core.extensions import extension
from app.core.timestamps import DAY, iso
from app.http.api import Query, json_response, operation

blueprint = Blueprint("insights", __name__, url_prefix="/api/analytics")


class IntervalView(BaseModel):
    start: str
    events: int
    visitors: int


class SummaryView(BaseModel):
    """Of the events from `from` up to and without `to`. Of a first or last interval that they cut, what lies between them."""

    model_config = ConfigDict(serialize_by_alias=True)

    from_: str = Field(alias="from")
    to: str
    interval: str
    total_events: int
    by_name: dict[str, int] = Field(description=f"The {MOST_NAMES:,} most frequent; `total_events` is of all")
    by_category: dict[str, int] = Field(description=f"The {MOST_NAMES:,} most frequent")
    series: list[IntervalView]


class SummaryQuery(Query):
    from_: str = Field("", alias="from", description="ISO 8601 with its zone, or a date (UTC). 30 days before `to`, if left out")
    to: str = Field("", description="Likewise. What reaches up to now takes the present interval as a whole, as if left out")
    interval: Literal["hour", "day"] = DAY  # type: ignore[assignment]


@blueprint.get("/summary")
@operation(
    "Events and visitors over time, and how often what happened",
    query=SummaryQuery,
    returns={200: SummaryView},
    errors=(401, 403),
)
@admin_required
def summary(query: SummaryQuery) -> Response:
    since, until = ranges.read("from", query.from_), ranges.read("to", query.to)
    asked = ranges.chosen(since, until, query.interval, datetime.now(UTC))
    found = insights().summary(asked)
    series = [
        IntervalView(start=iso(interval.start), events=interval.events, visitors=interval.visitors) for interval in found.series
    ]
    view = SummaryView(
        **{"from": iso(asked.since)},
        to=iso(asked.until),
        interval=asked.interval,
        total_events=found.total_events,
        by_name=found.by_name,
        by_category=found.by_category,
        series=series,
    )
    return json_response(view)


def insights() -> Insights:
    return extension(Insights, "insights")
