"""The user of the current request, sign-in and sign-out. Other features use only this module of app.auth."""

import functools
import secrets
from collections.abc import Callable
from typing import Any, TypeVar, cast

from flask import Flask, Response, after_this_request, current_app, g, request, session

from app.auth import audit
from app.auth.resets import PasswordResets
from app.auth.service import Accounts, Client, WrongPassword
from app.auth.store import User
from app.auth.tokens import WRITE, ApiTokens, InsufficientScope
from app.core.errors import NotFound, NotSignedIn, Problem, Unavailable
from app.core.extensions import extension
from app.http.security import SAFE_METHODS, bearer_token
from app.sessions import cookie
from app.sessions.interface import SessionInterface
from app.sessions.session import Session
from app.sessions.store import PASSWORD_VERSION_OF_DELETED_ACCOUNT, Owner, public_id

View = TypeVar("View", bound=Callable[..., Any])

DEVICE_COOKIE_SECONDS = 365 * 86_400
MAX_USER_AGENT_LENGTH = 300


def init_app(app: Flask) -> None:
    app.before_request(_authenticate_token)


def accounts() -> Accounts:
    return extension(Accounts, "accounts")


def tokens() -> ApiTokens:
    return extension(ApiTokens, "tokens")


def password_resets() -> PasswordResets:
    return extension(PasswordResets, "password_resets")


def current_user() -> User | None:
    """Return the signed-in user. A session of a deleted account or of an older password is ended."""
    if "user" not in g:
        g.user = _user_of_session()
    return cast("User | None", g.user)


def require_user() -> User:
    user = current_user()
    if user is None:
        raise NotSignedIn("Sign in first.")
    return user


def login_required(view: View) -> View:
    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        require_user()
        return view(*args, **kwargs)

    guarded.requires_sign_in = True  # type: ignore[attr-defined]
    return cast(View, guarded)


def session_only(view: View) -> View:
    """Mark a view as one that refuses API tokens: accounts, tokens and administration."""
    view.session_only = True  # type: ignore[attr-defined]
    return view


def admin_required(view: View) -> View:
    @session_only
    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        user = require_user()
        if not user.is_admin:
            audit.log_event("access.denied", client().address, user=user.id, path=request.path)
            raise Problem("This is for administrators.", status=403)
        return view(*args, **kwargs)

    guarded.requires_sign_in = True  # type: ignore[attr-defined]
    return cast(View, guarded)


def log_action(event: str, **facts: object) -> None:
    """Write an action of the signed-in user to the audit log."""
    audit.log_event(event, client().address, user=require_user().id, **facts)


def client() -> Client:
    """Return the client of the current request."""
    user_agent = request.user_agent.string[:MAX_USER_AGENT_LENGTH]
    return Client(request.remote_addr or "", user_agent, _device())


def sign_in(user: User) -> None:
    """Start a session under a new ID and end the session that the browser had before."""
    for callback in accounts().before_sign_in:
        callback(user.id)
    signing_in = client()
    owner = Owner(user.id, user.password_version)
    client_facts = {"ip": signing_in.address, "user_agent": signing_in.user_agent}
    values = {"user_id": user.id, "password_version": user.password_version}
    if not _interface().start(_session(), owner, client_facts, values):
        raise WrongPassword
    g.user = user
    _set_device_cookie(user, signing_in)


def sign_out() -> None:
    current = _session()
    _interface().end(current)
    g.user = None
    if current.key:
        audit.log_event("session.ended", client().address, session=public_id(current.key), by="logout")
    after_this_request(_clear_site_data)


def change_password(user: User, current: str, new: str) -> None:
    """Change the password, end all other sessions of the user and give this one a new ID."""
    changed = accounts().change_password(user, current, new, client())
    _end_sessions_of_old_password(changed, keep=_session().key)
    sign_in(changed)


def reset_password(secret: str, new: str) -> None:
    """Set a new password under a link and end all sessions of the user. Raises InvalidLink and Invalid."""
    changed = password_resets().set_password(secret, new, client().address)
    _set_device_cookie(changed, client())  # whoever has guessed passwords until now must not lock the owner out
    _end_sessions_of_old_password(changed, keep=None)


def _end_sessions_of_old_password(changed: User, keep: str | None) -> None:
    try:
        _interface().end_all(changed.id, "password_changed", keep=keep, password_version=changed.password_version)
    except Unavailable:  # they are rejected anyway, by their password version
        raise Unavailable("Your password was changed. Please sign in with the new password in a moment.") from None


def delete_account(user: User, password: str) -> None:
    accounts().delete(user, password, client())
    try:
        _interface().end_all(user.id, "account_deleted", keep=None, password_version=PASSWORD_VERSION_OF_DELETED_ACCOUNT)
        sign_out()
    except Unavailable:  # sessions of a deleted user are rejected anyway
        raise Unavailable("Your account was deleted. Your sessions end as soon as their store is available again.") from None


def end_other_sessions(user: User) -> None:
    count = _interface().end_all(user.id, "revoked", keep=_session().key)
    audit.log_event("sessions.ended", client().address, user=user.id, count=count)


def end_session(user: User, session_id: str) -> None:
    """End one session of the user by its public ID; sign out if it is the current one. Raises NotFound."""
    keys = [key for key in _interface().store.records_of_user(user.id) if public_id(key) == session_id]
    if not keys:
        raise NotFound("You have no such session.")
    if keys[0] == _session().key:
        sign_out()
    else:
        _interface().end_record(keys[0], "revoked")
        audit.log_event("session.ended", client().address, user=user.id, session=session_id, by="revocation")


def list_sessions(user: User) -> list[dict[str, Any]]:
    """Return the sessions of a user, most recently used first: id, current, and the facts of SessionInterface.describe."""
    interface, current = _interface(), _session().key
    described = [
        {"id": public_id(key), "current": key == current, **facts}
        for key, encrypted in interface.store.records_of_user(user.id).items()
        if (facts := interface.describe(key, encrypted))
    ]
    return sorted(described, key=lambda entry: entry["last_seen_at"], reverse=True)


def describe_current_session() -> dict[str, Any]:
    """Return id, created_at, last_seen_at and expires_at (seconds since 1970) of the signed-in user's session."""
    current = _session()
    assert current.key
    assert current.record
    return {
        "id": public_id(current.key),
        "created_at": current.record.created_at,
        "last_seen_at": current.record.seen_at,
        "expires_at": _interface().records.expires_at(current.record),
    }


def session_key() -> str | None:
    """Return the store key of the current session's record."""
    return _session().key


def _authenticate_token() -> None:
    """Sign in the user of an API token, for this request only. Raises InvalidToken, InsufficientScope and TooMany."""
    secret = bearer_token()
    if secret is None:
        return
    # A request is made in one name. Without cookies, nothing below can read or change a session, or set a cookie for one.
    request.environ.pop("HTTP_COOKIE", None)
    token, user = tokens().authenticate(secret, client().address)
    if getattr(current_app.view_functions.get(request.endpoint or ""), "session_only", False):
        refusal = Problem("API tokens cannot be used for accounts, tokens and administration. Sign in instead.", status=403)
    elif request.method not in SAFE_METHODS and token.scope != WRITE:
        refusal = InsufficientScope()
    else:
        g.user = user
        return
    audit.log_event("access.denied", client().address, user=user.id, token=token.id, path=request.path)
    raise refusal


def _user_of_session() -> User | None:
    user_id = session.get("user_id")
    if user_id is None:
        return None
    user = accounts().get(user_id)
    if user is None or user.password_version != session["password_version"]:
        _interface().discard(_session())
        return None
    return user


def _session() -> Session:
    return cast(Session, session._get_current_object())  # type: ignore[attr-defined]


def _interface() -> SessionInterface:
    return cast(SessionInterface, current_app.session_interface)


def _clear_site_data(response: Response) -> Response:
    # Without "cookies": the session cookie is deleted separately, and the device cookie has to stay.
    response.headers["Clear-Site-Data"] = '"cache", "storage"'
    return response


def _device_cookie_name() -> str:
    return str(current_app.config["SESSION_COOKIE_NAME"]).replace("session", "device")


def _device() -> tuple[int, str] | None:
    cookies = request.cookies.getlist(_device_cookie_name())[: cookie.MAX_OF_ONE_NAME]
    signed = next(filter(None, (cookie.read_signed(_interface().signing, text, "device") for text in cookies)), None)
    user_id, _, name = signed.value.partition(".") if signed else ("", "", "")
    return (int(user_id), name) if user_id.isdecimal() else None


def _set_device_cookie(user: User, signing_in: Client) -> None:
    if signing_in.device and signing_in.device[0] == user.id:
        return
    value = cookie.sign(_interface().signing, f"{user.id}.{secrets.token_hex(16)}", "device")

    @after_this_request
    def set_cookie(response: Response) -> Response:
        attributes = _interface().cookie_attributes(current_app)
        response.set_cookie(_device_cookie_name(), value, max_age=DEVICE_COOKIE_SECONDS, **attributes)
        return response
