"""What all JSON endpoints share: a body that is checked before the view sees it, and a description of the whole."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from flask import Response, request
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError
from werkzeug.routing import IntegerConverter

from app.core import timestamps
from app.core.errors import Invalid, Problem

MAX_BODY_BYTES = 1024 * 1024
MAX_FAULTS = 20
LARGEST_ID = 2**63 - 1  # that a database holds


class Body(BaseModel):
    """Of a request: nothing but the named fields, and no guessing of types."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _parse_timestamp(value: object) -> datetime:
    try:
        return timestamps.parse(value if isinstance(value, str) else "")
    except ValueError:
        raise PydanticCustomError("moment", TIMESTAMP_FORMAT) from None


TIMESTAMP_FORMAT = "A moment is ISO 8601 with a zone, or a date: its midnight in UTC. It lies between 1970 and 3000."
EXAMPLES = ["2026-01-31", "2026-01-31T12:00:00Z"]
# For the description alone, which knows no other way to say what a date is: without the 29th of February and other zones than Z.
_PATTERN = (
    "^(19[7-9][0-9]|2[0-9]{3})-"
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    r"(T([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?Z)?$"
)
Timestamp = Annotated[
    datetime,
    BeforeValidator(_parse_timestamp),
    WithJsonSchema({"type": "string", "description": TIMESTAMP_FORMAT, "pattern": _PATTERN, "examples": EXAMPLES}),
]


class IdConverter(IntegerConverter):
    """`<id:name>` in a route: a number. One that no row can have is that of a row which does not exist."""

    def to_python(self, value: str) -> int:
        return min(int(value), LARGEST_ID)


class Query(BaseModel):
    """What follows the `?` of an address; fields that nobody asked for are left out, as everywhere on the web."""


@dataclass(frozen=True)
class Operation:
    """How an endpoint appears in `/api/openapi.json`: `returns` by status (None: no content; a text: a file of that
    media type), and the `errors` that it has."""

    summary: str
    body: type[Body] | None = None
    query: type[Query] | None = None
    returns: Mapping[int, type[BaseModel] | str | None] = field(default_factory=dict)
    errors: tuple[int, ...] = ()


def operation(
    summary: str,
    *,
    body: type[Body] | None = None,
    query: type[Query] | None = None,
    returns: Mapping[int, type[BaseModel] | str | None],
    errors: tuple[int, ...] = (),
) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """Describes a view, and hands it the checked `body` and `query` as arguments if there are to be such."""

    def decorate(view: Callable[..., Response]) -> Callable[..., Response]:
        @functools.wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Response:
            if body:
                kwargs["body"] = read_body(body)
            if query:
                kwargs["query"] = read_query(query)
            return view(*args, **kwargs)

        checked.operation = Operation(summary, body, query, returns, errors)  # type: ignore[attr-defined]
        return checked

    return decorate


def read_body(model: type[Body]) -> Body:
    """Raises Problem: 415 for another content type, 400 for broken JSON, 413, 422 with the fields at fault."""
    if request.mimetype != "application/json":
        raise Problem("The body has to be application/json.", status=415)
    try:
        return model.model_validate_json(request.get_data())
    except ValidationError as error:
        if error.error_count() > MAX_FAULTS:  # to list them all would take longer than it helps
            raise Invalid("The body does not have the expected form at all.") from None
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        if any(fault["type"] == "json_invalid" for fault in faults):
            raise Problem("The body is not valid JSON.", status=400) from None
        raise Invalid("The body does not have the expected form.", errors=[_fault(fault) for fault in faults]) from None


def read_query(model: type[Query]) -> Query:
    """Raises Invalid with the parameters at fault."""
    try:
        return model.model_validate(request.args.to_dict())
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise Invalid("The query does not have the expected form.", errors=[_fault(fault) for fault in faults]) from None


def answer(model: BaseModel, status: int = 200) -> Response:
    return Response(model.model_dump_json(by_alias=True), status, content_type="application/json")


def no_content() -> Response:
    return Response(status=204)


def _fault(fault: Any) -> dict[str, str]:
    return {"field": ".".join(map(str, fault["loc"])), "message": fault["msg"]}
