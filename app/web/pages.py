"""Common to all pages: the blueprint, rendering, access control, notices and the inbox in the header."""

import functools
from collections.abc import Callable
from typing import Any, cast

from flask import Blueprint, g, make_response, redirect, render_template, request, url_for
from werkzeug import Response

from app.analytics import tracking
from app.auth.guards import admin_required, current_user, require_user
from app.core import instance, timestamps
from app.core.errors import Problem
from app.core.extensions import extension
from app.notifications.service import Notifications
from app.notifications.store import Inbox
from app.web import browsers, charts, formatting, reports

View = Callable[..., Response]

SEE_OTHER = 303
MAX_FORM_BYTES = 64 * 1024

# Texts for `?done=`. A notice in the session would cost a write, and a text in the URL could be forged.
NOTICES = {
    "password": "Your password was changed. All your other sessions were ended.",
    "mail": "If there is an account with this address, it gets a mail with a link. The link works once and for an hour.",
    "reset": "Your password was changed. All sessions have ended, and all API tokens are revoked. Sign in again.",
    "session": "The session was ended.",
    "sessions": "All your other sessions were ended.",
    "token": "The API token was revoked. It can no longer be used.",
    "account": "Your account and all its data were deleted.",
    "unfollowed": "You no longer follow this repository.",
    "tags": "The tags were saved.",
    "unshared": "You no longer share this report. The link does not work any more.",
    "cancelled": "The analysis was cancelled.",
    "read": "All notifications are marked as read.",
    "channel": "Your notifications are sent there too from now on.",
    "channel-test": "The test is on its way. Reload this page to see its result below.",
    "channel-deleted": "The channel was deleted. Nothing is delivered over it any more.",
    "subscription": "Your choice of notifications was saved.",
    "export": "The export has started. You get a notification when it is ready.",
    "drain": "The instance starts draining within two seconds.",
    "call-back": "The instance is ready again within two seconds.",
    "counted": "You have opted in. You are counted from now on.",
    "uncounted": "You have opted out. Nothing that you do from now on is stored.",
    "uncounted-still": "You have opted in, but your browser sends Global Privacy Control, so you are still not counted.",
    "gone": "This instance has stopped.",
}

blueprint = Blueprint("web", __name__)
blueprint.add_app_template_filter(browsers.describe, "browser")

blueprint.add_app_template_filter(reports.area_scores, "spokes")
blueprint.record(lambda setup: setup.app.jinja_env.globals.update(charts=charts, areas=reports.AREAS))
for filter in (
    formatting.utc,
    formatting.day,
    formatting.period,
    formatting.clock,
    formatting.month,
    formatting.ago,
    formatting.duration,
    formatting.number,
    formatting.quantity,
    formatting.percent,
    formatting.retry_delay,
    formatting.visible,
):
    blueprint.add_app_template_filter(filter)


@blueprint.app_template_filter("iso")
def iso(timestamp: formatting.Timestamp) -> str:
    return timestamp if isinstance(timestamp, str) else timestamps.iso(timestamp)


@blueprint.app_template_filter("error_of")
def error_of(problem: Problem | None, field: str) -> str | None:
    errors = problem.errors if problem else []
    return next((error["message"] for error in errors if error["field"] == field), None)


@blueprint.before_request
def limit_forms() -> None:
    """Limit the size of forms: parsing many small fields would block the event loop."""
    request.max_content_length = MAX_FORM_BYTES


@blueprint.app_context_processor
def common_context() -> dict[str, Any]:
    """Return the context of every page. It must not use the session, because error pages also work without its store."""
    return {"instance_id": instance.current().instance_id}


def sign_in_required(view: View) -> View:
    """Redirect anonymous visitors to the sign-in page, which redirects back after a GET."""

    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Response:
        if current_user():
            inbox()
            return view(*args, **kwargs)
        next_url = request.full_path.rstrip("?") if request.method == "GET" else None
        return redirect(url_for("web.login", next=next_url), SEE_OTHER)

    return guarded


def administrators_only(view: View) -> View:
    """Redirect anonymous visitors to the sign-in page, and answer other non-administrators with 403."""
    return sign_in_required(admin_required(view))


def inbox() -> Inbox | None:
    """Return the signed-in user's inbox. It is read before the page's content, so that later notifications are pushed."""
    user = current_user()
    if "inbox" not in g:
        g.inbox = notifications().inbox(user.id) if user else None
    return cast("Inbox | None", g.inbox)


def mark_opened(field: str, value: int | None = None) -> None:
    """Mark notifications as read because the user opens what they are about: `field` of their data is `value`, or is set."""
    current = inbox()
    if current and current.unread and tracking.is_visit():
        notifications().mark_opened(require_user().id, field, value)
        del g.inbox


def render(template: str, problem: Problem | None = None, **context: Any) -> Response:
    """Render a page with the session's user. A script reports the page's path if analytics may record this visitor."""
    path = tracking.page_path() if tracking.may_record() else None
    return render_without_session(template, problem, inbox=inbox(), user=current_user(), counted_path=path, **context)


def render_without_session(template: str, problem: Problem | None = None, **context: Any) -> Response:
    """Render a page that works while the session store is unavailable."""
    response = make_response(render_template(template, problem=problem, **context))
    if problem:
        response.status_code = problem.status
        response.headers.extend(problem.headers)
    return response


def error_page_context(problem: Problem) -> dict[str, Any]:
    """Return the context of the navigation, or nothing if a store is unavailable.

    Only these pages and addresses without a page use the session. Shared reports, for example, do not.
    """
    if problem.status >= 500 or request.blueprint not in (blueprint.name, None):
        return {}
    try:
        return {"inbox": inbox(), "user": current_user(), "has_navigation": True}
    except Problem:
        return {}


def current_notice() -> str | None:
    return NOTICES.get(request.args.get("done", ""))


def notifications() -> Notifications:
    return extension(Notifications, "notifications")
