"""`/api/analytics/`: whether one wants to be counted, and the events of those who do."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, json
from pydantic import BaseModel, Field

from app.analytics import tracking
from app.analytics.service import Choice
from app.core.timestamps import iso
from app.http.api import Body, answer, operation

MAX_EVENTS = 100
GPC_SINCE = "2026-11-26"

blueprint = Blueprint("analytics", __name__)


class ChoiceView(BaseModel):
    """`reason` of a no: the account's (user), this browser's (session), or the Sec-GPC header (gpc)."""

    opted_out: bool
    reason: str | None
    fenced_at: str | None


class ErasedView(BaseModel):
    """How many events were erased, and since when anonymous ones could have been found at all."""

    erased: int
    not_linkable_before: str


class EventsBody(Body):
    # Each is judged alone, so that a faulty one does not keep the others back.
    events: list[Any] = Field(
        min_length=1,
        max_length=MAX_EVENTS,
        description="Each is {id?, name, category, properties?, occurred_at?}.",
    )


class FaultView(BaseModel):
    field: str
    message: str


class RejectedView(BaseModel):
    index: int
    errors: list[FaultView]


class TakenView(BaseModel):
    accepted: int
    rejected: list[RejectedView]
    opted_out: bool


@blueprint.get("/api/analytics/opt-out")
@operation("Whether you are counted, and why not", returns={200: ChoiceView})
def opt_out_state() -> Response:
    return _choice(tracking.choice())


@blueprint.put("/api/analytics/opt-out")
@operation("Not to be counted any more", returns={200: ChoiceView})
def opt_out() -> Response:
    return _choice(tracking.opt_out())


@blueprint.delete("/api/analytics/opt-out")
@operation("To be counted again", returns={200: ChoiceView})
def opt_in() -> Response:
    return _choice(tracking.opt_in())


@blueprint.post("/api/analytics/events")
@operation("Events to be counted", body=EventsBody, returns={202: TakenView})
def take(body: EventsBody) -> Response:
    events, rejected = tracking.check(body.events)
    taken = tracking.take(events)
    return answer(
        TakenView(
            accepted=len(events) if taken else 0,
            rejected=[RejectedView.model_validate(vars(one)) for one in rejected],
            opted_out=not taken,
        ),
        202,
    )


@blueprint.delete("/api/analytics/me")
@operation("Erase your events", returns={200: ErasedView})
def erase() -> Response:
    erased = tracking.erase()
    return answer(ErasedView(erased=erased.count, not_linkable_before=iso(erased.not_linkable_before)))


@blueprint.get("/.well-known/gpc.json")
def global_privacy_control() -> Response:
    """https://www.w3.org/TR/gpc/#gpc-support-resource"""
    body = json.dumps({"gpc": True, "lastUpdate": GPC_SINCE})
    return Response(body, content_type="application/json", headers={"Cache-Control": "public, max-age=86400"})


def _choice(choice: Choice) -> Response:
    fenced_at = iso(choice.fenced_at) if choice.fenced_at else None
    return answer(ChoiceView(opted_out=choice.opted_out, reason=choice.reason, fenced_at=fenced_at))
