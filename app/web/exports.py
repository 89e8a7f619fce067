"""The part of the analytics page that orders exports and lists one's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import redirect
from werkzeug import Response

from app.analytics.exports.store import KEPT_FOR
from app.analytics.exports.views import order_one, service
from app.auth.guards import require_user
from app.core import timestamps
from app.core.errors import Invalid, Problem
from app.web import forms
from app.web.pages import SEE_OTHER, administrators_only, blueprint, render

PROPOSED_DAYS = 30
A_DAY = timedelta(days=1)


@blueprint.get("/admin/analytics/exports")
@administrators_only
def show_exports() -> Response:
    """This part alone, where an order that was refused comes back."""
    return render("export.html", **exports_for_page())


@blueprint.post("/admin/analytics/exports")
@administrators_only
def order_export() -> Response:
    try:
        first, last = _day("first_day"), _day("last_day")
        if last < first:
            raise Invalid.field("last_day", "The last day is before the first one.")
        order_one(first, last + A_DAY)
    except Problem as problem:
        return render("export.html", forms.correctable(problem), **exports_for_page())
    return redirect("/admin/analytics?done=export#exports", SEE_OTHER)


def exports_for_page() -> dict[str, Any]:
    """What `exports.html` needs, of the signed-in administrator."""
    today = datetime.now(UTC).date()
    return {
        "exports": service().list(require_user().id),
        "export_days": KEPT_FOR.days,
        "first_day": forms.text("first_day") or (today - A_DAY * (PROPOSED_DAYS - 1)).isoformat(),
        "last_day": forms.text("last_day") or today.isoformat(),
    }


def _day(field: str) -> datetime:
    try:
        return timestamps.floor(timestamps.parse(forms.text(field)), timestamps.DAY)
    except ValueError:
        raise Invalid.field(field, "Please choose a day.") from None
