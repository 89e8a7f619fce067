"""The pages of a forgotten password. They work without a session, and while the session store is unavailable."""

from flask import redirect, request, url_for
from werkzeug import Response

from app.auth import guards
from app.auth.guards import client, password_resets
from app.auth.passwords import MIN_LENGTH
from app.auth.resets import PATH, InvalidLink
from app.auth.service import normalize_email
from app.core.errors import NotFound, Problem
from app.web import forms
from app.web.pages import SEE_OTHER, blueprint, render_without_session


@blueprint.get("/forgot-password")
def forgot_password() -> Response:
    _require_mail()
    return render_without_session("forgot-password.html")


@blueprint.post("/forgot-password")
def request_reset() -> Response:
    _require_mail()
    email = forms.text("email")
    try:
        password_resets().request(normalize_email(email), client().address)
    except Problem as problem:
        return render_without_session("forgot-password.html", forms.correctable(problem), email=email)
    return redirect(url_for("web.login", done="mail"), SEE_OTHER)


@blueprint.get(PATH)
def reset_password() -> Response:
    return _reset_page(request.args.get("token", ""))


@blueprint.post(PATH)
def set_new_password() -> Response:
    secret = forms.text("token")
    try:
        guards.reset_password(secret, forms.text("new_password"))
    except Problem as problem:
        return _reset_page(secret, forms.correctable(problem))
    return redirect(url_for("web.login", done="reset"), SEE_OTHER)


@blueprint.get("/.well-known/change-password")
def change_password_address() -> Response:
    """Lead password managers to the form, as in https://w3c.github.io/webappsec-change-password-url/."""
    return redirect(url_for("web.settings", _anchor="password-part"), 302)


def _reset_page(secret: str, problem: Problem | None = None) -> Response:
    try:
        user = None if isinstance(problem, InvalidLink) else password_resets().user_of(secret)
    except InvalidLink as invalid:
        user, problem = None, invalid
    response = render_without_session(
        "reset-password.html",
        problem,
        email=user and user.email,
        token=secret,
        min_length=MIN_LENGTH,
        sends_mail=password_resets().sends_mail,
    )
    response.headers["Cache-Control"] = "no-store"
    # The address of this page is a secret. `no-referrer` would also hide from which site the form was sent.
    response.headers["Referrer-Policy"] = "strict-origin"
    return response


def _require_mail() -> None:
    if not password_resets().sends_mail:
        raise NotFound("This site sends no mail. Ask its operator for a link to set a new password.")
