"""JSON endpoints: validation of bodies and queries, and the description of each operation for OpenAPI."""

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
MAX_MEMBERS = 5000  # of all objects and arrays of a body; the largest valid one, a batch of events, has half of that
MAX_FAULTS = 20
MAX_ID = 2**63 - 1  # of a BIGINT column


class Body(BaseModel):
    """Base class of request bodies: unknown fields and implicit type conversions are rejected."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _parse_timestamp(value: object) -> datetime:
    try:
        return timestamps.parse(value if isinstance(value, str) else "")
    except ValueError:
        raise PydanticCustomError("moment", TIMESTAMP_FORMAT) from None


TIMESTAMP_FORMAT = "A timestamp is ISO 8601 with a time zone, or a date (midnight UTC), between 1970 and 3000."
_EXAMPLES = ["2026-01-31", "2026-01-31T12:00:00Z"]
# Only for the description, where a pattern can't express everything: it lacks 29 February and time zones other than Z.
_PATTERN = (
    "^(19[7-9][0-9]|2[0-9]{3})-"
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    r"(T([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?Z)?$"
)
Timestamp = Annotated[
    datetime,
    BeforeValidator(_parse_timestamp),
    WithJsonSchema({"type": "string", "description": TIMESTAMP_FORMAT, "pattern": _PATTERN, "examples": _EXAMPLES}),
]


def parse_id(digits: str) -> int:
    """Return the number, or MAX_ID, which no row has, if it is larger. `int` refuses more than 4,300 digits."""
    significant = digits.lstrip("0") or "0"
    return MAX_ID if len(significant) > len(str(MAX_ID)) else min(int(significant), MAX_ID)


class IdConverter(IntegerConverter):
    """`<id:name>` in a route: a number. A number above MAX_ID becomes MAX_ID."""

    def to_python(self, value: str) -> int:
        return parse_id(value)


class Query(BaseModel):
    """Base class of query strings. Unknown parameters are ignored."""


@dataclass(frozen=True)
class Operation:
    """The description of an endpoint in `/api/openapi.json`.

    `returns`: response by status; None is no content, a string is a file of that media type. `errors`: status codes.
    """

    summary: str
    body: type[Body] | None = None
    query: type[Query] | None = None
    returns: Mapping[int, type[BaseModel] | str | None] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    requires_sign_in: bool = False
    accepts_tokens: bool = True


def operation(
    summary: str,
    *,
    body: type[Body] | None = None,
    query: type[Query] | None = None,
    returns: Mapping[int, type[BaseModel] | str | None],
    errors: tuple[int, ...] = (),
) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """Decorate a view with its description. The view receives the validated `body` and `query` as arguments."""

    def decorate(view: Callable[..., Response]) -> Callable[..., Response]:
        @functools.wraps(view)
        def validated(*args: Any, **kwargs: Any) -> Response:
            if body:
                kwargs["body"] = read_body(body)
            if query:
                kwargs["query"] = read_query(query)
            return view(*args, **kwargs)

        requires_sign_in = getattr(view, "requires_sign_in", False)
        accepts_tokens = not getattr(view, "session_only", False)
        described = Operation(summary, body, query, returns, errors, requires_sign_in, accepts_tokens)
        validated.operation = described  # type: ignore[attr-defined]
        return validated

    return decorate


def read_body(model: type[Body]) -> Body:
    """Raises Problem with status 415 (content type), 400 (invalid JSON), 413 (too large) or 422 (invalid fields)."""
    if request.mimetype != "application/json":
        raise Problem("The content type must be application/json.", status=415)
    data = request.get_data()
    # Validation would create an error for each unknown key, and block the event loop meanwhile.
    if data.count(b",") > MAX_MEMBERS and _count_members(data) > MAX_MEMBERS:
        raise Invalid(f"The body has more than {MAX_MEMBERS} keys and array items.")
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        if error.error_count() > MAX_FAULTS:  # a complete list would be slow and of no use
            raise Invalid("The body has too many invalid fields to list them.") from None
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        if any(fault["type"] == "json_invalid" for fault in faults):
            raise Problem("The body is not valid JSON.", status=400) from None
        raise Invalid("The body has invalid fields.", errors=[_field_error(fault) for fault in faults]) from None


def _count_members(data: bytes) -> int:
    """Return the number of commas outside of strings. Parsing would create an object for each key."""
    without_escapes = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(without_escapes.split(b'"')[::2]).count(b",")


def read_query(model: type[Query]) -> Query:
    """Raises Invalid with the invalid parameters."""
    try:
        return model.model_validate(request.args.to_dict())
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise Invalid("The query has invalid parameters.", errors=[_field_error(fault) for fault in faults]) from None


def json_response(model: BaseModel, status: int = 200) -> Response:
    return Response(model.model_dump_json(by_alias=True), status, content_type="application/json")


def no_content() -> Response:
    return Response(status=204)


def _field_error(fault: Any) -> dict[str, str]:
    return {"field": ".".join(map(str, fault["loc"])), "message": fault["msg"]}
