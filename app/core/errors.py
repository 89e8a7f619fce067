"""Error responses: problem details (RFC 9457) under `/api/`, an HTML page elsewhere, never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, current_app, json, render_template, request
from flask.globals import request_ctx
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException, InternalServerError

from app.core import descriptors, instance, logs

log = logging.getLogger(__name__)


CHALLENGE = 'Bearer realm="RepoRadar"'  # RFC 9110 requires one for 401; unlike Basic, it opens no window in browsers
MESSAGES = {
    404: "There is nothing at this address.",
    405: "This address does not support this request method.",
    413: "The request is too large.",
}


class Problem(Exception):
    """An error response. `errors` holds a `{field, message}` for each invalid field; `headers` are added to the response."""

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
    """Invalid input."""

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
    """A rate limit was reached. `retry_after` in seconds."""

    status = 429

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class Unavailable(Problem):
    """A required service does not answer. Clients may retry after `retry_after` seconds."""

    status = 503

    def __init__(self, detail: str, retry_after: int = 2) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class NoFileDescriptors(Unavailable):
    def __init__(self) -> None:
        super().__init__("This instance has no file descriptors left. Please try again in a moment.")


def cause_of(error: BaseException) -> str:
    """Return the first line of the error's cause, for logs and command output; empty if there is none."""
    cause = error.__cause__
    return str(getattr(cause, "orig", cause) or "").partition("\n")[0]


def init_app(app: Flask, page_context: Callable[[Problem], dict[str, Any]]) -> None:
    """Render errors. `page_context` returns what else an error page shows; it must not raise."""
    app.extensions["error_page_context"] = page_context
    app.register_error_handler(Problem, _problem)
    app.register_error_handler(HTTPException, _http_exception)
    app.register_error_handler(ParseException, _malformed_body)
    log_exception = app.log_exception

    def log_unexpected(exc_info: Any) -> None:
        """Log the traceback of a bug. A Problem that arises while the session is saved, after the view, is none."""
        error = exc_info[1]
        if _is_shortage(error):
            descriptors.shortage.record(error)
        elif not isinstance(error, Problem):
            log_exception(exc_info)

    app.log_exception = log_unexpected  # type: ignore[method-assign]


def _problem(problem: Problem) -> Response:
    if problem.status >= 500:
        log.warning("%s %s: %s %s", request.method, request.path, problem.detail, cause_of(problem))
    return _render(problem)


def _http_exception(error: HTTPException) -> Response:
    if isinstance(error, InternalServerError) and error.original_exception is not None:
        return _unexpected(error.original_exception)
    if error.response is not None:  # a redirect, or a response that the view has prepared
        return error.response  # type: ignore[return-value]
    headers = {name: value for name, value in error.get_headers() if name not in ("Content-Type", "Content-Length")}
    message = MESSAGES.get(error.code or 500, error.description or "")
    return _render(Problem(message, status=error.code, headers=headers))


def _malformed_body(_: ParseException) -> Response:
    """Answer a body with a malformed chunk or trailer, which gunicorn finds when a view reads it. It closes the connection."""
    return _render(Problem("The request body is malformed.", status=400))


def _unexpected(error: BaseException) -> Response:
    # Flask has logged the traceback of any other error. A Problem arrives here if saving the session raised it after the view.
    if isinstance(error, Problem):
        return _problem(error)
    if _is_shortage(error):
        return _render(NoFileDescriptors())
    return _render(Problem("An unexpected error occurred. Report the request ID to the operator."))


def _is_shortage(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in descriptors.NONE_LEFT


def _render(problem: Problem) -> Response:
    title = HTTPStatus(problem.status).phrase
    if request_ctx.url_adapter is None:  # the Host header is invalid, so a page could not contain links
        response = Response(problem.detail, problem.status, content_type="text/plain; charset=utf-8")
    elif request.path.startswith("/api/"):
        response = Response(json.dumps(problem_details(problem)), problem.status, content_type="application/problem+json")
        if problem.status == 401:
            response.headers["WWW-Authenticate"] = CHALLENGE
    else:
        context = current_app.extensions["error_page_context"](problem)
        page = render_template("error.html", problem=problem, title=title, request_id=logs.request_id.get(), **context)
        response = Response(page, problem.status, content_type="text/html; charset=utf-8")
    response.headers.update(problem.headers)
    return response


def problem_details(problem: Problem) -> dict[str, Any]:
    """Return the body of a response under `/api/` (RFC 9457)."""
    details: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "instance_id": instance.current().instance_id,
        "request_id": logs.request_id.get(),
    }
    if problem.errors:
        details["errors"] = problem.errors
    return details
