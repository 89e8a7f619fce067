"""One shape for errors: problem details (RFC 9457) under `/api/`, a plain page elsewhere, and never a traceback."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, json, render_template, request
from flask.globals import request_ctx
from werkzeug.exceptions import HTTPException, InternalServerError

from app.core import instance, logs

log = logging.getLogger(__name__)


SENTENCES = {
    404: "There is nothing at this address.",
    405: "This address does not take requests of that kind.",
    413: "This is larger than what is accepted here.",
}


class Problem(Exception):
    """An answer that is an error: `errors` are `{field, message}` for bad input, `headers` go with the response."""

    status = 500

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        errors: list[dict[str, str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status or self.status
        self.errors = errors or []
        self.headers = headers or {}


class Invalid(Problem):
    """Input of the right form that breaks a rule."""

    status = 422

    @classmethod
    def field(cls, name: str, message: str) -> Invalid:
        return cls(message, errors=[{"field": name, "message": message}])


class NotSignedIn(Problem):
    status = 401


class NotFound(Problem):
    status = 404


class Conflict(Problem):
    status = 409


class TooMany(Problem):
    """A rate limit was reached; `retry_after` in whole seconds."""

    status = 429

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class Unavailable(Problem):
    """Something that is needed does not answer now. Nothing was lost, and asking again soon is right."""

    status = 503

    def __init__(self, detail: str, retry_after: int = 2) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


def cause_of(error: BaseException) -> str:
    """The first line of what lies behind an error, for the log or an operator's terminal; empty if it has no cause."""
    cause = error.__cause__
    return str(getattr(cause, "orig", cause) or "").partition("\n")[0]


def init_app(app: Flask) -> None:
    app.register_error_handler(Problem, _problem)
    app.register_error_handler(HTTPException, _http_exception)


def _problem(problem: Problem) -> Response:
    if problem.status >= 500:
        log.warning("%s %s: %s %s", request.method, request.path, problem.detail, cause_of(problem))
    return _render(problem)


def _http_exception(error: HTTPException) -> Response:
    if isinstance(error, InternalServerError) and error.original_exception is not None:
        return _unexpected(error.original_exception)
    if error.response is not None:  # a redirect, or an answer made by whoever raised it
        return error.response  # type: ignore[return-value]
    headers = {name: value for name, value in error.get_headers() if name not in ("Content-Type", "Content-Length")}
    sentence = SENTENCES.get(error.code or 500, error.description or "")
    return _render(Problem(sentence, status=error.code, headers=headers))


def _unexpected(error: BaseException) -> Response:
    # Flask has logged it with its traceback. A Problem gets here when saving the session raised it after the view.
    if isinstance(error, Problem):
        return _problem(error)
    return _render(Problem("Something went wrong here. The request id leads to the cause in the log."))


def _render(problem: Problem) -> Response:
    title = HTTPStatus(problem.status).phrase
    if request_ctx.url_adapter is None:  # the Host header makes no sense, so no page can be made that has links
        response = Response(problem.detail, problem.status, content_type="text/plain; charset=utf-8")
    elif request.path.startswith("/api/"):
        response = Response(json.dumps(_details(problem, title)), problem.status, content_type="application/problem+json")
    else:
        page = render_template("error.html", problem=problem, title=title, request_id=logs.request_id.get())
        response = Response(page, problem.status, content_type="text/html; charset=utf-8")
    response.headers.extend(problem.headers)
    return response


def _details(problem: Problem, title: str) -> dict[str, Any]:
    details: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": problem.status,
        "detail": problem.detail,
        "instance_id": instance.current().instance_id,
        "request_id": logs.request_id.get(),
    }
    if problem.errors:
        details["errors"] = problem.errors
    return details
