"""Who is asking: the signed-in user of a request, and how a request signs in and out. Other features use this and no more."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable
from typing import Any, TypeVar, cast

from flask import Response, after_this_request, current_app, g, request, session

from app.auth import audit
from app.auth.service import Accounts, Client, WrongPassword
from app.auth.store import User
from app.core.errors import NotFound, NotSignedIn, Problem, Unavailable
from app.core.extensions import extension
from app.sessions import cookie
from app.sessions.interface import SessionInterface
from app.sessions.session import Session
from app.sessions.store import NEVER_AGAIN, Owner, public_id

View = TypeVar("View", bound=Callable[..., Any])

DEVICE_COOKIE_SECONDS = 365 * 86_400
MAX_USER_AGENT_LENGTH = 300


def accounts() -> Accounts:
    return extension(Accounts, "accounts")


def current_user() -> User | None:
    """From the session, and held against the user's row: a deleted account or an older password ends the session."""
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

    return cast(View, guarded)


def admin_required(view: View) -> View:
    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        user = require_user()
        if not user.is_admin:
            audit.note("access.denied", client().address, user=user.id, path=request.path)
            raise Problem("This is for administrators.", status=403)
        return view(*args, **kwargs)

    return cast(View, guarded)


def note_act(event: str, **facts: object) -> None:
    """For the audit log: what the signed-in user did."""
    audit.note(event, client().address, user=require_user().id, **facts)


def client() -> Client:
    """Of this request."""
    agent = request.user_agent.string[:MAX_USER_AGENT_LENGTH]
    return Client(request.remote_addr or "", agent, _device())


def sign_in(user: User) -> None:
    """A session under a new id; what the browser had before is dead."""
    for prepare in accounts().before_sign_in:
        prepare(user.id)
    caller = client()
    owner = Owner(user.id, user.password_version)
    facts = {"ip": caller.address, "user_agent": caller.user_agent}
    values = {"user_id": user.id, "password_version": user.password_version}
    if not _interface().start(_session(), owner, facts, values):
        raise WrongPassword
    g.user = user
    _remember_device(user, caller)


def sign_out() -> None:
    current = _session()
    _interface().end(current)
    g.user = None
    if current.key:
        audit.note("session.ended", client().address, session=public_id(current.key), by="logout")
    after_this_request(_clear_site_data)


def change_password(user: User, current: str, new: str) -> None:
    """Every other session of the user ends, and this one gets a new id."""
    changed = accounts().change_password(user, current, new, client())
    try:
        _interface().end_all(user.id, "password_changed", keep=_session().key, password_version=changed.password_version)
    except Unavailable:  # sessions of the old password are refused all the same, by their version
        raise Unavailable("Your password was changed. Please sign in with the new one in a moment.") from None
    sign_in(changed)


def delete_account(user: User, password: str) -> None:
    accounts().delete(user, password, client())
    try:
        _interface().end_all(user.id, "account_deleted", keep=None, password_version=NEVER_AGAIN)
        sign_out()
    except Unavailable:  # sessions of a user who is gone lead nowhere
        raise Unavailable("Your account was deleted. Your sessions end as soon as their store answers again.") from None


def end_other_sessions(user: User) -> None:
    ended = _interface().end_all(user.id, "revoked", keep=_session().key)
    audit.note("sessions.ended", client().address, user=user.id, count=ended)


def end_session(user: User, session_id: str) -> None:
    """One of the user's, by its public id; signs out if it is this one. Raises NotFound."""
    keys = [key for key in _interface().store.of_user(user.id) if public_id(key) == session_id]
    if not keys:
        raise NotFound("You have no such session.")
    if keys[0] == _session().key:
        sign_out()
    else:
        _interface().end_record(keys[0], "revoked")
        audit.note("session.ended", client().address, user=user.id, session=session_id, by="revocation")


def list_sessions(user: User) -> list[dict[str, Any]]:
    """The latest first: id, created_at and last_seen_at (seconds since 1970), ip, user_agent, current."""
    interface, current = _interface(), _session().key
    described = [
        {"id": public_id(key), "current": key == current, **facts}
        for key, sealed in interface.store.of_user(user.id).items()
        if (facts := interface.describe(key, sealed))
    ]
    return sorted(described, key=lambda entry: entry["last_seen_at"], reverse=True)


def describe_current_session() -> dict[str, Any]:
    current = _session()
    return {
        "id": public_id(current.key or ""),
        "created_at": current.created_at,
        "last_seen_at": current.seen_at,
        "expires_at": _interface().expires_at(current),
    }


def session_key() -> str | None:
    """Under which the record of this request's session is kept."""
    return _session().key


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
    response.headers["Clear-Site-Data"] = '"cache", "storage"'  # cookies stay: the session's is deleted, the device's is needed
    return response


def _device_cookie_name() -> str:
    return str(current_app.config["SESSION_COOKIE_NAME"]).replace("session", "device")


def _device() -> tuple[int, str] | None:
    read = cookie.read_signed(_interface().signing, request.cookies.get(_device_cookie_name(), ""), "device")
    user_id, _, name = read[0].partition(".") if read else ("", "", "")
    return (int(user_id), name) if user_id.isdecimal() else None


def _remember_device(user: User, caller: Client) -> None:
    if caller.device and caller.device[0] == user.id:
        return
    value = cookie.sign(_interface().signing, f"{user.id}.{secrets.token_hex(16)}", "device")

    @after_this_request
    def set_cookie(response: Response) -> Response:
        attributes = _interface().cookie_attributes(current_app)
        response.set_cookie(_device_cookie_name(), value, max_age=DEVICE_COOKIE_SECONDS, **attributes)
        return response
