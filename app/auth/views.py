"""`/api/auth/`: accounts and sessions as JSON."""

from flask import Blueprint, Response

from app.auth import guards
from app.auth.bodies import (
    AnsweringInstanceView,
    CreatedTokenView,
    CurrentSessionView,
    CurrentUserView,
    LoginBody,
    PasswordChangeBody,
    PasswordConfirmationBody,
    RegistrationBody,
    SessionListView,
    SessionView,
    SignedInView,
    TokenBody,
    TokenListView,
    TokenView,
    UserView,
)
from app.auth.guards import accounts, client, login_required, require_user, session_only, tokens
from app.auth.store import User
from app.core import instance
from app.core.timestamps import iso
from app.http.api import json_response, no_content, operation

blueprint = Blueprint("auth", __name__, url_prefix="/api/auth")


@blueprint.post("/register")
@operation("Register an account and sign in", body=RegistrationBody, returns={201: SignedInView}, errors=(409, 429))
@session_only
def register(body: RegistrationBody) -> Response:
    user = accounts().register(body.email, body.password, client())
    guards.sign_in(user)
    return _user(user, 201)


@blueprint.post("/login")
@operation("Sign in", body=LoginBody, returns={200: SignedInView}, errors=(401, 429))
@session_only
def login(body: LoginBody) -> Response:
    user = accounts().log_in(body.email, body.password, client())
    guards.sign_in(user)
    return _user(user)


@blueprint.post("/logout")
@operation("Sign out; succeeds without a session too", returns={204: None})
@session_only
def logout() -> Response:
    guards.sign_out()
    return no_content()


@blueprint.get("/me")
@operation("The signed-in user", returns={200: CurrentUserView}, errors=(401,))
@session_only
@login_required
def me() -> Response:
    found = guards.describe_current_session()
    times = {name: iso(found[name]) for name in ("created_at", "last_seen_at", "expires_at")}
    return json_response(
        CurrentUserView(
            user=UserView.of(require_user()),
            session=CurrentSessionView(id=found["id"], **times),
            instance=AnsweringInstanceView(**instance.current().metadata()),
        )
    )


@blueprint.post("/password")
@operation("Change the password and end all other sessions", body=PasswordChangeBody, returns={204: None}, errors=(401, 409, 429))
@session_only
@login_required
def password(body: PasswordChangeBody) -> Response:
    guards.change_password(require_user(), body.current_password, body.new_password)
    return no_content()


@blueprint.get("/sessions")
@operation("All sessions of the user", returns={200: SessionListView}, errors=(401,))
@session_only
@login_required
def sessions() -> Response:
    found = guards.list_sessions(require_user())
    return json_response(SessionListView(sessions=[_session(entry) for entry in found]))


@blueprint.delete("/sessions")
@operation("End all sessions except the current one", returns={204: None}, errors=(401,))
@session_only
@login_required
def end_other_sessions() -> Response:
    guards.end_other_sessions(require_user())
    return no_content()


@blueprint.delete("/sessions/<session_id>")
@operation("End one session", returns={204: None}, errors=(401, 404))
@session_only
@login_required
def end_session(session_id: str) -> Response:
    guards.end_session(require_user(), session_id)
    return no_content()


@blueprint.delete("/account")
@operation("Delete the account and all its data", body=PasswordConfirmationBody, returns={204: None}, errors=(401, 429))
@session_only
@login_required
def delete_account(body: PasswordConfirmationBody) -> Response:
    guards.delete_account(require_user(), body.password)
    return no_content()


@blueprint.get("/tokens")
@operation("All API tokens of the user", returns={200: TokenListView}, errors=(401,))
@session_only
@login_required
def list_tokens() -> Response:
    return json_response(TokenListView(tokens=[TokenView.of(token) for token in tokens().list(require_user().id)]))


@blueprint.post("/tokens")
@operation("Create an API token", body=TokenBody, returns={201: CreatedTokenView}, errors=(401, 409))
@session_only
@login_required
def create_token(body: TokenBody) -> Response:
    token, secret = tokens().create(require_user().id, body.name, body.scope, body.expires_at, client().address)
    return json_response(CreatedTokenView.of(token, token=secret), 201)


@blueprint.delete("/tokens/<id:token_id>")
@operation("Revoke an API token", returns={204: None}, errors=(401, 404))
@session_only
@login_required
def revoke_token(token_id: int) -> Response:
    tokens().revoke(require_user().id, token_id, client().address)
    return no_content()


def _user(user: User, status: int = 200) -> Response:
    return json_response(SignedInView(user=UserView.of(user)), status)


def _session(entry: dict[str, object]) -> SessionView:
    times = {name: iso(entry[name]) for name in ("created_at", "last_seen_at")}  # type: ignore[arg-type]
    return SessionView.model_validate({**entry, **times})
