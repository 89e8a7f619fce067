"""The page of notifications, newest first, and the forms that choose which ones a user gets."""

from flask import redirect, request, url_for
from werkzeug import Response

from app.auth.guards import require_user
from app.http.api import MAX_ID, parse_id
from app.web import forms
from app.web.pages import SEE_OTHER, blueprint, current_notice, notifications, render, sign_in_required

PAGE_SIZE = 50


@blueprint.get("/notifications")
@sign_in_required
def show_notifications() -> Response:
    text = request.args.get("before", "")
    before = parse_id(text) if text.isdecimal() else None
    found = notifications().before(require_user().id, MAX_ID if before is None else before, PAGE_SIZE + 1)
    return render(
        "notifications.html", items=found[:PAGE_SIZE], older=len(found) > PAGE_SIZE, before=before, notice=current_notice()
    )


@blueprint.post("/notifications/read")
@sign_in_required
def mark_notifications_read() -> Response:
    """Mark the notifications up to the newest one on the submitted page. Later ones were not seen."""
    up_to = forms.text("up_to")
    if up_to.isdecimal():
        notifications().mark_read(require_user().id, parse_id(up_to))
    return redirect(url_for("web.show_notifications", done="read"), SEE_OTHER)


@blueprint.post("/settings/notifications")
@sign_in_required
def subscribe() -> Response:
    types, inherit = forms.notification_types()
    notifications().subscribe(require_user().id, types, inherit=inherit)
    return redirect(url_for("web.settings", done="subscription", _anchor="notifications"), SEE_OTHER)
