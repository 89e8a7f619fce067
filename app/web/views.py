"""The pages: what a browser shows without any script. Forms come back with what is wrong, or lead on with a redirect."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, current_app, make_response, redirect, render_template, request, url_for
from werkzeug import Response

from app import instance
from app.api import iso
from app.auth import guards
from app.auth.guards import accounts, client, current_user, require_user
from app.auth.passwords import MIN_LENGTH
from app.auth.service import MAX_EMAIL_LENGTH
from app.errors import Invalid, NotFound, Problem
from app.web import browsers, forms

View = Callable[..., Response]

SEE_OTHER = 303
MAX_FORM_BYTES = 64 * 1024

# What `?done=` may say. A notice in the session would cost a write, and one in the address could say anything.
NOTICES = {
    "password": "Your password was changed, and all your other sessions were ended.",
    "session": "The session was ended.",
    "sessions": "All your other sessions were ended.",
    "account": "Your account and everything that belonged to it was deleted.",
}

blueprint = Blueprint("web", __name__)
blueprint.add_app_template_filter(iso, "iso")
blueprint.add_app_template_filter(browsers.describe, "browser")


@blueprint.before_request
def limit_forms() -> None:
    """A large form of many small fields would keep the event loop busy while it is taken apart."""
    request.max_content_length = MAX_FORM_BYTES


@blueprint.app_context_processor
def every_page() -> dict[str, Any]:
    """Must not look at the session: error pages tell that its store is down."""
    return {"instance_id": instance.current().instance_id}


@blueprint.app_template_filter("utc")
def readable(moment: datetime | int) -> str:
    """`3 October 2025, 20:00 UTC`, of a datetime or of seconds since 1970."""
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return f"{moment.day} {moment.astimezone(UTC):%B %Y, %H:%M} UTC"


@blueprint.app_template_filter("wait")
def waiting_time(seconds: str) -> str:
    minutes = -(-int(seconds) // 60)
    return "a minute" if minutes <= 1 else f"{minutes} minutes"


@blueprint.get("/")
def home() -> Response:
    return _page("home.html", user=current_user(), notice=_notice())


# These two pages are what is left while the session store is down: they must not look at the session.


@blueprint.get("/login")
def login() -> Response:
    return _entrance("login.html", next=request.args.get("next", ""))


@blueprint.get("/register")
def register() -> Response:
    return _entrance("register.html")


@blueprint.post("/login")
def log_in() -> Response:
    email, next_path = forms.text("email"), forms.text("next")
    try:
        if len(email) > MAX_EMAIL_LENGTH:
            raise Invalid.field("email", "This is not an e-mail address.")
        guards.sign_in(accounts().log_in(email, forms.password("password"), client()))
    except Problem as problem:
        return _entrance("login.html", forms.correctable(problem), email=email, next=next_path)
    return redirect(forms.local_path(next_path), SEE_OTHER)


@blueprint.post("/register")
def open_account() -> Response:
    email = forms.text("email")
    try:
        guards.sign_in(accounts().register(email, forms.text("password"), client()))
    except Problem as problem:
        return _entrance("register.html", forms.correctable(problem), email=email)
    return redirect(url_for("web.home"), SEE_OTHER)


@blueprint.post("/logout")
def logout() -> Response:
    guards.sign_out()
    return redirect(url_for("web.home"), SEE_OTHER)


def sign_in_first(view: View) -> View:
    """Sends anonymous visitors to the sign-in page, and back to this one afterwards if that is possible."""

    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Response:
        if current_user():
            return view(*args, **kwargs)
        back = request.path if request.method == "GET" else None
        return redirect(url_for("web.login", next=back), SEE_OTHER)

    return guarded


@blueprint.get("/settings")
@sign_in_first
def settings() -> Response:
    return _settings(notice=_notice())


@blueprint.post("/settings/password")
@sign_in_first
def change_password() -> Response:
    try:
        current, new = forms.password("current_password"), forms.text("new_password")
        guards.change_password(require_user(), current, new)
    except Problem as problem:
        return _settings(forms.correctable(problem), form="password")
    return _settings_done("password")


@blueprint.post("/settings/sessions/<session_id>/end")
@sign_in_first
def end_session(session_id: str) -> Response:
    with contextlib.suppress(NotFound):  # it ended by itself while the page was open
        guards.end_session(require_user(), session_id)
    return _settings_done("session")


@blueprint.post("/settings/sessions/end-others")
@sign_in_first
def end_other_sessions() -> Response:
    guards.end_other_sessions(require_user())
    return _settings_done("sessions")


@blueprint.post("/settings/account/delete")
@sign_in_first
def delete_account() -> Response:
    try:
        guards.delete_account(require_user(), forms.password("password"))
    except Problem as problem:
        return _settings(forms.correctable(problem), form="account")
    return redirect(url_for("web.home", done="account"), SEE_OTHER)


def _settings(problem: Problem | None = None, **context: Any) -> Response:
    user = require_user()
    sessions = guards.list_sessions(user)
    return _page("settings.html", problem, user=user, sessions=sessions, min_length=MIN_LENGTH, **context)


def _settings_done(what: str) -> Response:
    return redirect(url_for("web.settings", done=what), SEE_OTHER)


def _entrance(template: str, problem: Problem | None = None, **context: Any) -> Response:
    """Secure cookies don't come back over plain http: better to say so than to let people sign in in vain."""
    in_vain = current_app.config["REPORADAR"].production and request.scheme == "http"
    return _page(template, problem, in_vain=in_vain, min_length=MIN_LENGTH, **context)


def _page(template: str, problem: Problem | None = None, **context: Any) -> Response:
    response = make_response(render_template(template, problem=problem, **context))
    if problem:
        response.status_code = problem.status
        response.headers.extend(problem.headers)
    return response


def _notice() -> str | None:
    return NOTICES.get(request.args.get("done", ""))
