"""Shared reports: a page, JSON and a badge for everyone who has the link. They neither read nor start a session."""

from flask import Blueprint, render_template, request
from flask import Response as FlaskResponse
from werkzeug import Response

from app.core.errors import NotFound
from app.web import reports
from app.web.badges import badge_of
from app.web.pages import render_without_session
from app.web.repositories import sharing

BADGE_SECONDS = 300

# Not a part of the blueprint of the other pages, whose views are counted for the account of the session.
blueprint = Blueprint("shared", __name__, url_prefix="/shared")

route = "/<string(length=32):key>"


@blueprint.after_request
def keep_private(response: Response) -> Response:
    """Keep the link from search engines and from the sites that a report links to: everyone who reads it can open it."""
    response.headers["X-Robots-Tag"] = "noindex, nofollow"
    response.headers["Referrer-Policy"] = "no-referrer"
    # A link that has ended must not show its report from a cache. The badge sets its own.
    response.headers.setdefault("Cache-Control", "no-cache")
    return response


@blueprint.get(route)
def report(key: str) -> Response:
    shared = sharing().report(key)
    prepared = reports.context(shared.report, shared.history) if shared.report else {}
    return render_without_session("shared.html", entry=shared, **prepared)


@blueprint.get(f"{route}.json")
def as_json(key: str) -> Response:
    shared = sharing().report(key)
    if shared.report is None:
        raise NotFound("There is no report about this repository yet.")
    document = reports.as_json(shared.name, shared.url or None, shared.report)
    return _conditional(FlaskResponse(document, content_type="application/json"))


@blueprint.get(f"{route}/badge.svg")
def badge(key: str) -> Response:
    drawn = render_template("badge.svg", badge=badge_of(sharing().last_success(key)))
    response = FlaskResponse(drawn, content_type="image/svg+xml; charset=utf-8")
    response.headers["Cache-Control"] = f"public, max-age={BADGE_SECONDS}"
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"  # pages of other sites show it
    return _conditional(response)


def _conditional(response: FlaskResponse) -> Response:
    """Add an ETag, and answer a client that has this version with 304."""
    response.add_etag()
    return response.make_conditional(request)
