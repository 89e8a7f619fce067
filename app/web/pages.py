"""What all pages share: the blueprint, how a page is made, who may see it, and what is in its header."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

from flask import Blueprint, g, make_response, redirect, render_template, request, url_for
from werkzeug import Response

from app.analytics import tracking
from app.auth.guards import admin_required, current_user
from app.core import instance, timestamps
from app.core.errors import Problem
from app.core.extensions import extension
from app.notifications.service import Notifications
from app.notifications.store import Inbox
from app.web import browsers, charts, reports, words

View = Callable[..., Response]

SEE_OTHER = 303
MAX_FORM_BYTES = 64 * 1024

# What `?done=` may say. A notice in the session would cost a write, and one in the address could say anything.
NOTICES = {
    "password": "Your password was changed, and all your other sessions were ended.",
    "session": "The session was ended.",
    "sessions": "All your other sessions were ended.",
    "account": "Your account and everything that belonged to it was deleted.",
    "unfollowed": "You no longer follow this repository.",
    "cancelled": "The analysis was cancelled.",
    "read": "All notifications are marked as read.",
    "export": "The export was ordered. A notification tells you when it is ready.",
    "drain": "The instance was told to drain. It begins within a second or two.",
    "call-back": "The instance was called back. It is ready again within a second or two.",
    "counted": "You are counted again, from now on.",
    "uncounted": "You are not counted any more: nothing that you do from now on is stored.",
    "uncounted-still": "You opted in again, but your browser sends Global Privacy Control, so you are still not counted.",
    "gone": "This instance is not there any more.",
}

blueprint = Blueprint("web", __name__)
blueprint.add_app_template_filter(browsers.describe, "browser")
blueprint.add_app_template_filter(words.waiting_time, "wait")
blueprint.add_app_template_filter(reports.area_scores, "spokes")
blueprint.record(lambda setup: setup.app.jinja_env.globals.update(charts=charts, areas=reports.AREAS))
for filter in (
    words.utc,
    words.day,
    words.period,
    words.clock,
    words.month,
    words.ago,
    words.lasting,
    words.number,
    words.counted,
    words.percent,
    words.visible,
):
    blueprint.add_app_template_filter(filter)


@blueprint.app_template_filter("iso")
def iso(moment: words.Moment) -> str:
    return moment if isinstance(moment, str) else timestamps.iso(moment)


@blueprint.app_template_filter("error_of")
def error_of(problem: Problem | None, field: str) -> str | None:
    faults = problem.errors if problem else []
    return next((fault["message"] for fault in faults if fault["field"] == field), None)


@blueprint.before_request
def limit_forms() -> None:
    """A large form of many small fields would keep the event loop busy while it is taken apart."""
    request.max_content_length = MAX_FORM_BYTES


@blueprint.app_context_processor
def every_page() -> dict[str, Any]:
    """Must not look at the session: error pages tell that its store is down."""
    return {"instance_id": instance.current().instance_id}


def sign_in_required(view: View) -> View:
    """Sends anonymous visitors to the sign-in page, and back to this one afterwards if that is possible."""

    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Response:
        if current_user():
            inbox()
            return view(*args, **kwargs)
        back = request.full_path.rstrip("?") if request.method == "GET" else None
        return redirect(url_for("web.login", next=back), SEE_OTHER)

    return guarded


def administrators_only(view: View) -> View:
    """Anonymous visitors are sent to the sign-in page; others are told that this is not for them."""
    return sign_in_required(admin_required(view))


def inbox() -> Inbox | None:
    """Read before the content of a page, so that what comes in between is pushed to the page rather than missed."""
    user = current_user()
    if "inbox" not in g:
        g.inbox = notifications().inbox(user.id) if user else None
    return cast("Inbox | None", g.inbox)


def render(template: str, problem: Problem | None = None, **context: Any) -> Response:
    """Of a visitor who may be signed in. Whoever is counted has the path of the page told by a script."""
    path = tracking.page_path() if tracking.may_record() else None
    return render_without_session(template, problem, inbox=inbox(), user=current_user(), counted_path=path, **context)


def render_without_session(template: str, problem: Problem | None = None, **context: Any) -> Response:
    """Without a look at the session."""
    response = make_response(render_template(template, problem=problem, **context))
    if problem:
        response.status_code = problem.status
        response.headers.extend(problem.headers)
    return response


def current_notice() -> str | None:
    return NOTICES.get(request.args.get("done", ""))


def notifications() -> Notifications:
    return extension(Notifications, "notifications")
