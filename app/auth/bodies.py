"""Request and response bodies of the account endpoints."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from app.auth.passwords import MAX_LENGTH, MIN_LENGTH
from app.auth.service import EMAIL, MAX_EMAIL_LENGTH
from app.auth.store import User
from app.http.api import Body

Email = Annotated[str, Field(min_length=3, max_length=MAX_EMAIL_LENGTH, pattern=f"^{EMAIL.pattern}$")]
NewPassword = Annotated[str, Field(min_length=MIN_LENGTH, max_length=MAX_LENGTH)]
KnownPassword = Annotated[str, Field(max_length=MAX_LENGTH)]


class Registration(Body):
    email: Email
    password: NewPassword


class Login(Body):
    email: Annotated[str, Field(max_length=MAX_EMAIL_LENGTH)]
    password: KnownPassword


class PasswordChange(Body):
    current_password: KnownPassword
    new_password: NewPassword


class Confirmation(Body):
    password: KnownPassword


class UserFacts(BaseModel):
    id: int
    email: str
    is_admin: bool

    @classmethod
    def of(cls, user: User) -> UserFacts:
        return cls(id=user.id, email=user.email, is_admin=user.is_admin)


class UserAnswer(BaseModel):
    """The user who is signed in now."""

    user: UserFacts


class CurrentSession(BaseModel):
    id: str
    created_at: str
    last_seen_at: str
    expires_at: str


class InstanceFacts(BaseModel):
    instance_id: str
    hostname: str
    pid: int
    start_time: str
    uptime: int


class Me(BaseModel):
    """The signed-in user, the session, and the instance that answered."""

    user: UserFacts
    session: CurrentSession
    instance: InstanceFacts


class SessionFacts(BaseModel):
    id: str
    created_at: str
    last_seen_at: str
    user_agent: str
    ip: str
    current: bool


class SessionList(BaseModel):
    """All sessions of the user, most recently used first."""

    sessions: list[SessionFacts]
