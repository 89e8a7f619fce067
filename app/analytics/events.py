"""The form of an event, and which of those that a client sends have it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import uuid4

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, InstanceOf, ValidationError

from app.analytics import personal

MAX_BYTES = 2048  # of a whole event; so many of them may wait in Redis
MAX_PROPERTIES = 20
MAX_TEXT = 200  # characters
MAX_NUMBER = 2**53  # whole numbers up to it are the same in JavaScript
AHEAD = timedelta(minutes=5)  # clocks differ

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Event:
    event_id: str
    name: str
    category: str
    properties: dict[str, Scalar]
    occurred_at: datetime
    is_dated: bool = False  # by its client, instead of by when it came

    @property
    def path(self) -> str:
        """Of the page that it happened on."""
        path = self.properties.get("path")
        return re.split("[?#]", path, maxsplit=1)[0][:MAX_TEXT] if isinstance(path, str) else ""


@dataclass(frozen=True)
class Rejected:
    """`errors` are `{field, message}`; never what was sent."""

    index: int
    errors: list[dict[str, str]]


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError
    return number


_Label = Annotated[str, Field(min_length=1, max_length=64, pattern="^[A-Za-z][A-Za-z0-9 _.:/-]*$")]
_Key = Annotated[str, Field(max_length=40, pattern="^[A-Za-z][A-Za-z0-9_.-]*$")]
_Text = Annotated[str, Field(max_length=MAX_TEXT, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
_Whole = Annotated[int, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
_Finite = Annotated[InstanceOf[float], AfterValidator(_finite)]
_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?(Z|[+-][0-9]{2}:?[0-9]{2})$"


class Item(BaseModel):
    """An event as a client sends it: nothing but these fields, and no guessing of types."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Annotated[str, Field(max_length=64, pattern="^[A-Za-z0-9][A-Za-z0-9._:-]*$")] = Field(
        default_factory=lambda: str(uuid4())
    )
    name: _Label
    category: _Label
    properties: dict[_Key, _Text | _Whole | _Finite | bool] = Field(default_factory=dict, max_length=MAX_PROPERTIES)
    occurred_at: Annotated[str, Field(max_length=40, pattern=_MOMENT)] = Field(default_factory=str)


_LABEL = "1 to 64 letters, figures, spaces and _ . : / -, beginning with a letter."
_RULES = {
    "id": "1 to 64 letters, figures and . _ : -, beginning with a letter or a figure.",
    "name": _LABEL,
    "category": _LABEL,
    "properties": f"At most {MAX_PROPERTIES}, each called by 1 to 40 letters, figures and _ . -, beginning with a letter.",
    "occurred_at": "A moment of ISO 8601 with its zone, such as 2026-11-26T20:00:00Z.",
}
_VALUE = (
    f"A text of at most {MAX_TEXT} characters without control characters, a whole number of at most 2^53, "
    "another finite number, true or false."
)


class _Refused(Exception):
    def __init__(self, *errors: tuple[str, str]) -> None:
        self.errors = [{"field": field, "message": message} for field, message in errors]


def check(items: Sequence[Any], now: datetime, oldest: datetime) -> tuple[list[Event], list[Rejected]]:
    """Each is judged alone."""
    events, rejected = [], []
    for index, item in enumerate(items):
        try:
            events.append(_event(_item(item), now, oldest))
        except _Refused as refused:
            rejected.append(Rejected(index, refused.errors))
    return events, rejected


def _item(item: Any) -> Item:
    if not isinstance(item, dict) or len(item) > len(Item.model_fields):
        raise _Refused(("", f"An event is an object of {', '.join(Item.model_fields)} and nothing else."))
    properties = item.get("properties")
    if isinstance(properties, dict) and len(properties) > MAX_PROPERTIES:  # each would be judged, and its faults listed
        raise _Refused(("properties", _RULES["properties"]))
    try:
        return Item.model_validate(item)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise _Refused(*dict.fromkeys(_fault(fault["type"], *fault["loc"]) for fault in faults)) from None


def _fault(kind: str, field: int | str = "", *within: int | str) -> tuple[str, str]:
    """One sentence instead of the many that there are for the forms that a value may have."""
    if field not in _RULES:
        return str(field)[:64], "There is no such field."
    if kind == "missing":
        return str(field), "This is missing."
    if within and within[-1] != "[key]":
        return f"{field}.{within[0]}", _VALUE
    return str(field), _RULES[str(field)]


def _event(item: Item, now: datetime, oldest: datetime) -> Event:
    if personally := list(_personal(item)):
        raise _Refused(*personally)
    moment = _moment(item.occurred_at, now, oldest) if item.occurred_at else now
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    event = Event(item.id, item.name, item.category, item.properties, moment, is_dated=bool(item.occurred_at))
    if len(msgspec.json.encode(event)) > MAX_BYTES:
        raise _Refused(("properties", f"An event has at most {MAX_BYTES:,} bytes."))
    return event


def _personal(item: Item) -> Iterator[tuple[str, str]]:
    if why := personal.in_id(item.id):
        yield "id", why
    if why := personal.in_label(item.name):
        yield "name", why
    if why := personal.in_label(item.category):
        yield "category", why
    for key, value in item.properties.items():
        if why := personal.in_property(key, value):
            yield f"properties.{key}", why


def _moment(text: str, now: datetime, oldest: datetime) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:  # such as the 31st of February
        raise _Refused(("occurred_at", _RULES["occurred_at"])) from None
    if moment > now + AHEAD:
        raise _Refused(("occurred_at", "This is in the future."))
    if moment < oldest:
        raise _Refused(("occurred_at", "This is too long ago: it would not be kept."))
    return min(moment, now).astimezone(UTC)
