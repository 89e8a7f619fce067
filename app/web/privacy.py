"""What is collected, and whether one is counted: the page for everybody, and its part in the settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from flask import current_app, redirect, url_for
from werkzeug import Response

from app.analytics import tracking
from app.analytics.catalogue import COLLECTED
from app.analytics.service import Erased
from app.core.errors import Unavailable
from app.web import forms, words
from app.web.pages import SEE_OTHER, blueprint, current_notice, render


@blueprint.get("/privacy")
def privacy() -> Response:
    return render("privacy.html", notice=current_notice(), **being_counted("web.privacy"))


@blueprint.post("/privacy/opt-out")
def opt_out() -> Response:
    with _or_else("Your choice was not saved: what you chose before still holds."):
        tracking.opt_out()
    return _done("uncounted")


@blueprint.post("/privacy/opt-in")
def opt_in() -> Response:
    with _or_else("Your choice was not saved: what you chose before still holds."):
        chosen = tracking.opt_in()
    return _done("uncounted-still" if chosen.opted_out else "counted")


@blueprint.post("/privacy/erase")
def erase() -> Response:
    """The answer comes at once: put into an address, its numbers could be anybody's, and to erase once more does no harm."""
    with _or_else("Nothing was erased."):
        erased = tracking.erase()
    return render("privacy.html", notice=_told(erased), **being_counted("web.privacy"))


def being_counted(here: str) -> dict[str, Any]:
    """What the part says that the page at the endpoint `here` shares with another. Without a `choice` where it can't be read."""
    choice = None
    with suppress(Unavailable):
        choice = tracking.choice()
    days = current_app.config["REPORADAR"].analytics_retention_days
    return {"choice": choice, "gpc": tracking.gpc(), "collected": COLLECTED, "retention_days": days, "here": here}


@contextmanager
def _or_else(outcome: str) -> Iterator[None]:
    try:
        yield
    except Unavailable as problem:
        problem.detail = outcome
        raise


def _done(what: str) -> Response:
    back = "web.settings" if forms.text("here") == "web.settings" else "web.privacy"
    return redirect(url_for(back, done=what), SEE_OTHER)


def _told(erased: Erased) -> str:
    return (
        f"{words.counted(erased.count, 'event')} erased. What was stored before {words.utc(erased.not_linkable_before)} "
        "of people who were not signed in is nobody’s any more, so it could not be searched for yours."
    )
