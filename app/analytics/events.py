"""Validation of the events that clients send."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import uuid4

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, InstanceOf, ValidationError

from app.analytics import pii
from app.analytics.catalogue import BY_NAME

MAX_BYTES = 2048  # of an encoded event; bounds the memory of the stream in Redis
MAX_PROPERTIES = 20
MAX_TEXT_LENGTH = 200
MAX_INTEGER = 2**53  # JavaScript represents integers up to this one exactly
MAX_CLOCK_SKEW = timedelta(minutes=5)

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Event:
    """A valid event. Its JSON form is stored in the Redis stream, so its fields are part of that format."""

    event_id: str
    name: str
    category: str
    properties: dict[str, Scalar]
    occurred_at: datetime
    is_dated: bool = False  # the client sent `occurred_at`; otherwise it is the time of arrival

    @property
    def path(self) -> str:
        """The page on which the event happened, without query and fragment; "" if unknown."""
        path = self.properties.get("path")
        return re.split("[?#]", path, maxsplit=1)[0][:MAX_TEXT_LENGTH] if isinstance(path, str) else ""


@dataclass(frozen=True)
class RejectedEvent:
    """The position of an invalid event in its batch. `errors` are `{field, message}` and never repeat values that were sent."""

    index: int
    errors: list[dict[str, str]]


def _require_finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError
    return number


_Label = Annotated[str, Field(min_length=1, max_length=64, pattern="^[A-Za-z][A-Za-z0-9 _.:/-]*$")]
_PropertyName = Annotated[str, Field(max_length=40, pattern="^[A-Za-z][A-Za-z0-9_.-]*$")]
_Text = Annotated[str, Field(max_length=MAX_TEXT_LENGTH, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
_Integer = Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
_Float = Annotated[InstanceOf[float], AfterValidator(_require_finite)]
_TIMESTAMP = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?(Z|[+-][0-9]{2}:?[0-9]{2})$"


class EventInput(BaseModel):
    """An event as a client sends it. Other fields are rejected, and types are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Annotated[str, Field(max_length=64, pattern="^[A-Za-z0-9][A-Za-z0-9._:-]*$")] = Field(
        default_factory=lambda: str(uuid4())
    )
    name: _Label
    category: _Label
    properties: dict[_PropertyName, _Text | _Integer | _Float | bool] = Field(default_factory=dict, max_length=MAX_PROPERTIES)
    occurred_at: Annotated[str, Field(max_length=40, pattern=_TIMESTAMP)] = Field(default_factory=str)


_LABEL_RULE = "Use 1 to 64 letters, digits, spaces and _ . : / -, starting with a letter."
_RULES = {
    "id": "Use 1 to 64 letters, digits and . _ : -, starting with a letter or a digit.",
    "name": _LABEL_RULE,
    "category": _LABEL_RULE,
    "properties": f"At most {MAX_PROPERTIES}, each with a name of 1 to 40 letters, digits and _ . -, starting with a letter.",
    "occurred_at": "Use an ISO 8601 timestamp with a time zone, such as 2026-11-26T20:00:00Z.",
}
_VALUE_RULE = (
    f"Use a text of at most {MAX_TEXT_LENGTH} characters without control characters, an integer between -2^53 and 2^53, "
    "a finite number, true or false."
)


class _InvalidEvent(Exception):
    def __init__(self, *errors: tuple[str, str]) -> None:
        self.errors = [{"field": field, "message": message} for field, message in errors]


def validate(items: Sequence[Any], now: datetime, oldest: datetime) -> tuple[list[Event], list[RejectedEvent]]:
    """Validate each event on its own. Events dated before `oldest` are rejected."""
    events, rejected = [], []
    for index, item in enumerate(items):
        try:
            events.append(_to_event(_parse(item), now, oldest))
        except _InvalidEvent as invalid:
            rejected.append(RejectedEvent(index, invalid.errors))
    return events, rejected


def _parse(item: Any) -> EventInput:
    if not isinstance(item, dict) or len(item) > len(EventInput.model_fields):
        raise _InvalidEvent(("", f"An event is an object with these fields only: {', '.join(EventInput.model_fields)}."))
    properties = item.get("properties")
    if isinstance(properties, dict) and len(properties) > MAX_PROPERTIES:  # pydantic would report each of thousands
        raise _InvalidEvent(("properties", _RULES["properties"]))
    try:
        return EventInput.model_validate(item)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise _InvalidEvent(*dict.fromkeys(_describe(fault["type"], *fault["loc"]) for fault in faults)) from None


def _describe(kind: str, field: int | str = "", *within: int | str) -> tuple[str, str]:
    """Return the field and one message for it. Pydantic has one error for each type that a value might have."""
    if field not in _RULES:
        return str(field)[:64], "There is no such field."
    if kind == "missing":
        return str(field), "This field is required."
    if within and within[-1] != "[key]":
        return f"{field}.{within[0]}", _VALUE_RULE
    return str(field), _RULES[str(field)]


def _to_event(item: EventInput, now: datetime, oldest: datetime) -> Event:
    if errors := list(_property_errors(item)):
        raise _InvalidEvent(*errors)
    occurred_at = _parse_timestamp(item.occurred_at, now, oldest) if item.occurred_at else now
    occurred_at = occurred_at.replace(microsecond=occurred_at.microsecond // 1000 * 1000)
    event = Event(item.id, item.name, item.category, item.properties, occurred_at, is_dated=bool(item.occurred_at))
    if len(msgspec.json.encode(event)) > MAX_BYTES:
        raise _InvalidEvent(("properties", f"An event has at most {MAX_BYTES:,} bytes."))
    return event


def _property_errors(item: EventInput) -> Iterator[tuple[str, str]]:
    declared = BY_NAME.get(item.name)
    for name, value in item.properties.items():
        if declared is None:
            error = pii.find_in_property(name, value)
        else:
            error = None if name in declared.properties else _undeclared(item.name, *declared.properties)
        if error:
            yield f"properties.{name}", error


def _undeclared(event: str, *declared: str) -> str:
    return f"{event} is a declared event and accepts only these properties: {', '.join(declared) or 'none'}."


def _parse_timestamp(text: str, now: datetime, oldest: datetime) -> datetime:
    try:
        timestamp = datetime.fromisoformat(text)
    except ValueError:  # such as February 31
        raise _InvalidEvent(("occurred_at", _RULES["occurred_at"])) from None
    if timestamp > now + MAX_CLOCK_SKEW:
        raise _InvalidEvent(("occurred_at", "This is in the future."))
    if timestamp < oldest:
        raise _InvalidEvent(("occurred_at", "This is older than the retention period."))
    return min(timestamp, now).astimezone(UTC)
