"""The exports section of the analytics page: requests exports, and lists the administrator's own."""

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import redirect
from werkzeug import Response

from app.analytics.exports.store import RETENTION
from app.analytics.exports.views import request_export, service
from app.auth.guards import require_user
from app.core import timestamps
from app.core.errors import Invalid, Problem
from app.web import forms
from app.web.pages import SEE_OTHER, administrators_only, blueprint, render

DEFAULT_DAYS = 30
ONE_DAY = timedelta(days=1)


@blueprint.get("/admin/analytics/exports")
@administrators_only
def show_exports() -> Response:
    """Show the section alone. A form with errors is shown under the same URL."""
    return render("export.html", **exports_context())


@blueprint.post("/admin/analytics/exports")
@administrators_only
def order_export() -> Response:
    try:
        first, last = _parse_day("first_day"), _parse_day("last_day")
        if last < first:
            raise Invalid.field("last_day", "The last day is before the first day.")
        request_export(first, last + ONE_DAY)
    except Problem as problem:
        return render("export.html", forms.correctable(problem), **exports_context())
    return redirect("/admin/analytics?done=export#exports", SEE_OTHER)


def exports_context() -> dict[str, Any]:
    """Return the context of `exports.html` for the signed-in administrator."""
    today = datetime.now(UTC).date()
    return {
        "exports": service().list(require_user().id),
        "export_days": RETENTION.days,
        "first_day": forms.text("first_day") or (today - ONE_DAY * (DEFAULT_DAYS - 1)).isoformat(),
        "last_day": forms.text("last_day") or today.isoformat(),
    }


def _parse_day(field: str) -> datetime:
    try:
        return timestamps.floor(timestamps.parse(forms.text(field)), timestamps.DAY)
    except ValueError:
        raise Invalid.field(field, "Choose a day.") from None
