"""The page of notifications, the newest first."""

from __future__ import annotations

from flask import redirect, request, url_for
from werkzeug import Response

from app.auth.guards import require_user
from app.web import forms
from app.web.pages import SEE_OTHER, blueprint, current_notice, notifications, render, sign_in_required

PAGE = 50
BEYOND_ALL = 2**63 - 1  # the largest number that the database can hold


@blueprint.get("/notifications")
@sign_in_required
def show_notifications() -> Response:
    before = request.args.get("before", type=int)
    found = notifications().before(require_user().id, _within_reach(before), PAGE + 1)
    return render("notifications.html", items=found[:PAGE], older=len(found) > PAGE, before=before, notice=current_notice())


@blueprint.post("/notifications/read")
@sign_in_required
def mark_notifications_read() -> Response:
    """Up to what the page showed: what came afterwards was not seen."""
    up_to = forms.text("up_to")
    if up_to.isdecimal():
        notifications().mark_read(require_user().id, _within_reach(int(up_to)))
    return redirect(url_for("web.show_notifications", done="read"), SEE_OTHER)


def _within_reach(seq: int | None) -> int:
    return BEYOND_ALL if seq is None else max(0, min(seq, BEYOND_ALL))
