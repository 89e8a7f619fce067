"""The pages for registering, signing in, and changing or deleting an account."""

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import current_app, redirect, request, url_for
from werkzeug import Response

from app.auth import guards
from app.auth.guards import accounts, client, password_resets, require_user, tokens
from app.auth.passwords import MIN_LENGTH
from app.auth.service import MAX_EMAIL_LENGTH
from app.auth.tokens import MAX_NAME_LENGTH, READ, WRITE
from app.core.errors import Invalid, NotFound, Problem
from app.web import forms
from app.web.pages import SEE_OTHER, blueprint, current_notice, mark_opened, render_without_session, sign_in_required
from app.web.settings import TOKEN_DAYS, render_settings

# These two pages also work while the session store is unavailable, so they must not use the session.


@blueprint.get("/login")
def login() -> Response:
    return _sign_in_page("login.html", next=request.args.get("next", ""), notice=current_notice())


@blueprint.get("/register")
def register() -> Response:
    return _sign_in_page("register.html")


@blueprint.post("/login")
def log_in() -> Response:
    email, next_path = forms.text("email"), forms.text("next")
    try:
        if len(email) > MAX_EMAIL_LENGTH:
            raise Invalid.field("email", "This is not an e-mail address.")
        guards.sign_in(accounts().log_in(email, forms.password("password"), client()))
    except Problem as problem:
        return _sign_in_page("login.html", forms.correctable(problem), email=email, next=next_path)
    return redirect(forms.local_path(next_path), SEE_OTHER)


@blueprint.post("/register")
def create_account() -> Response:
    email = forms.text("email")
    try:
        guards.sign_in(accounts().register(email, forms.text("password"), client()))
    except Problem as problem:
        return _sign_in_page("register.html", forms.correctable(problem), email=email)
    return redirect(url_for("web.home"), SEE_OTHER)


@blueprint.post("/logout")
def logout() -> Response:
    guards.sign_out()
    return redirect(url_for("web.home"), SEE_OTHER)


@blueprint.get("/settings")
@sign_in_required
def settings() -> Response:
    mark_opened("channel_id")
    return render_settings(notice=current_notice())


@blueprint.post("/settings/password")
@sign_in_required
def change_password() -> Response:
    try:
        current, new = forms.password("current_password"), forms.text("new_password")
        guards.change_password(require_user(), current, new)
    except Problem as problem:
        return render_settings(forms.correctable(problem), form="password")
    return _settings_done("password")


@blueprint.post("/settings/sessions/<session_id>/end")
@sign_in_required
def end_session(session_id: str) -> Response:
    with contextlib.suppress(NotFound):  # it ended while the page was open
        guards.end_session(require_user(), session_id)
    return _settings_done("session")


@blueprint.post("/settings/sessions/end-others")
@sign_in_required
def end_other_sessions() -> Response:
    guards.end_other_sessions(require_user())
    return _settings_done("sessions")


@blueprint.post("/settings/tokens")
@sign_in_required
def create_token() -> Response:
    name, scope, days = forms.text("name"), forms.text("scope"), forms.text("days")
    try:
        if scope not in (READ, WRITE) or days not in TOKEN_DAYS:
            raise Invalid("Choose what the token may do and when it expires.")
        if len(name) > MAX_NAME_LENGTH:
            raise Invalid.field("name", f"A name has at most {MAX_NAME_LENGTH} characters.")
        expires_at = datetime.now(UTC) + timedelta(days=int(days)) if days else None
        token, secret = tokens().create(require_user().id, name, scope, expires_at, client().address)
    except Problem as problem:
        return render_settings(forms.correctable(problem), form="token", name=name)
    # Not a redirect: the secret is stored nowhere, so the next page could not show it.
    return render_settings(created_token=token, secret=secret)


@blueprint.post("/settings/tokens/<id:token_id>/revoke")
@sign_in_required
def revoke_token(token_id: int) -> Response:
    with contextlib.suppress(NotFound):  # it was revoked while the page was open
        tokens().revoke(require_user().id, token_id, client().address)
    return _settings_done("token")


@blueprint.post("/settings/account/delete")
@sign_in_required
def delete_account() -> Response:
    try:
        guards.delete_account(require_user(), forms.password("password"))
    except Problem as problem:
        return render_settings(forms.correctable(problem), form="account")
    return redirect(url_for("web.home", done="account"), SEE_OTHER)


def _settings_done(what: str) -> Response:
    return redirect(url_for("web.settings", done=what), SEE_OTHER)


def _sign_in_page(template: str, problem: Problem | None = None, **context: Any) -> Response:
    """Render with a warning if signing in cannot work: browsers do not send Secure cookies over plain http."""
    needs_https = current_app.config["REPORADAR"].is_production and request.scheme == "http"
    return render_without_session(
        template, problem, needs_https=needs_https, min_length=MIN_LENGTH, sends_mail=password_resets().sends_mail, **context
    )
