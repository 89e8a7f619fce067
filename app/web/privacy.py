"""The privacy page: what analytics collects, opt-out, opt-in and erasure. The settings page includes the same section."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from flask import current_app, redirect, url_for
from werkzeug import Response

from app.analytics import tracking
from app.analytics.catalogue import DECLARED_EVENTS
from app.analytics.service import ErasureResult
from app.core.errors import Unavailable
from app.web import formatting, forms
from app.web.pages import SEE_OTHER, blueprint, current_notice, render


@blueprint.get("/privacy")
def privacy() -> Response:
    return render("privacy.html", notice=current_notice(), **consent_context("web.privacy"))


@blueprint.post("/privacy/opt-out")
def opt_out() -> Response:
    with _explain_failure("Your choice was not saved. Your previous choice is still in effect."):
        tracking.opt_out()
    return _redirect_back("uncounted")


@blueprint.post("/privacy/opt-in")
def opt_in() -> Response:
    with _explain_failure("Your choice was not saved. Your previous choice is still in effect."):
        status = tracking.opt_in()
    return _redirect_back("uncounted-still" if status.opted_out else "counted")


@blueprint.post("/privacy/erase")
def erase() -> Response:
    """Render the page without a redirect: numbers in a URL could be forged, and repeating an erasure does no harm."""
    with _explain_failure("Nothing was erased."):
        erased = tracking.erase()
    return render("privacy.html", notice=_describe(erased), **consent_context("web.privacy"))


def consent_context(here: str) -> dict[str, Any]:
    """Return the context of `consent.html` on the page with the endpoint `here`. `status` is None if it cannot be read."""
    status = None
    with suppress(Unavailable):
        status = tracking.opt_out_status()
    days = current_app.config["REPORADAR"].analytics_retention_days
    return {
        "status": status,
        "has_gpc": tracking.has_gpc(),
        "declared_events": DECLARED_EVENTS,
        "retention_days": days,
        "here": here,
    }


@contextmanager
def _explain_failure(detail: str) -> Iterator[None]:
    try:
        yield
    except Unavailable as problem:
        problem.detail = detail
        raise


def _redirect_back(done: str) -> Response:
    back = "web.settings" if forms.text("here") == "web.settings" else "web.privacy"
    return redirect(url_for(back, done=done), SEE_OTHER)


def _describe(erased: ErasureResult) -> str:
    since = formatting.utc(erased.not_linkable_before)
    return (
        f"{formatting.quantity(erased.count, 'event')} erased. What was stored before {since} of people who were not signed in "
        "cannot be attributed to anybody, so it was not searched for events of yours."
    )
