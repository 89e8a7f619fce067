"""Request and response bodies of the account endpoints."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.auth.passwords import MAX_LENGTH, MIN_LENGTH, is_too_long
from app.auth.service import EMAIL, MAX_EMAIL_LENGTH
from app.auth.store import User
from app.auth.token_store import ApiToken
from app.auth.tokens import MAX_NAME_LENGTH, READ
from app.core.timestamps import iso
from app.http.api import Body, Timestamp


def _limit_length(password: str) -> str:
    if is_too_long(password):
        raise PydanticCustomError("string_too_long", f"A password has at most {MAX_LENGTH} characters.")
    return password


Email = Annotated[str, Field(min_length=3, max_length=MAX_EMAIL_LENGTH, pattern=f"^{EMAIL.pattern}$")]
KnownPassword = Annotated[str, AfterValidator(_limit_length), WithJsonSchema({"type": "string", "maxLength": MAX_LENGTH})]
NewPassword = Annotated[
    str,
    Field(min_length=MIN_LENGTH),
    AfterValidator(_limit_length),
    WithJsonSchema({"type": "string", "minLength": MIN_LENGTH, "maxLength": MAX_LENGTH}),
]


class RegistrationBody(Body):
    email: Email
    password: NewPassword


class LoginBody(Body):
    email: Annotated[str, Field(max_length=MAX_EMAIL_LENGTH)]
    password: KnownPassword


class PasswordChangeBody(Body):
    current_password: KnownPassword
    new_password: NewPassword


class PasswordConfirmationBody(Body):
    password: KnownPassword


class TokenBody(Body):
    """A new API token. Without `expires_at` it does not expire."""

    name: str = Field(min_length=1, max_length=MAX_NAME_LENGTH)
    scope: Literal["read", "write"] = READ
    expires_at: Timestamp | None = None


class UserView(BaseModel):
    id: int
    email: str
    is_admin: bool

    @classmethod
    def of(cls, user: User) -> UserView:
        return cls(id=user.id, email=user.email, is_admin=user.is_admin)


class SignedInView(BaseModel):
    """The user who is signed in now."""

    user: UserView


class CurrentSessionView(BaseModel):
    id: str
    created_at: str
    last_seen_at: str
    expires_at: str


class AnsweringInstanceView(BaseModel):
    instance_id: str
    hostname: str
    pid: int
    start_time: str
    uptime: int


class CurrentUserView(BaseModel):
    """The signed-in user, the session, and the instance that answered."""

    user: UserView
    session: CurrentSessionView
    instance: AnsweringInstanceView


class SessionView(BaseModel):
    id: str
    created_at: str
    last_seen_at: str
    user_agent: str
    ip: str
    current: bool


class SessionListView(BaseModel):
    """All sessions of the user, most recently used first."""

    sessions: list[SessionView]


class TokenView(BaseModel):
    id: int
    name: str
    scope: str
    created_at: str
    last_used_at: str | None
    expires_at: str | None

    @classmethod
    def of(cls, found: ApiToken, **more: str) -> Self:
        return cls.model_validate(
            {
                "id": found.id,
                "name": found.name,
                "scope": found.scope,
                "created_at": iso(found.created_at),
                "last_used_at": found.last_used_at and iso(found.last_used_at),
                "expires_at": found.expires_at and iso(found.expires_at),
                **more,
            }
        )


class CreatedTokenView(TokenView):
    """The new token. `token` is shown only this once."""

    token: str


class TokenListView(BaseModel):
    """All API tokens of the user, newest first; `last_used_at` is exact to a minute."""

    tokens: list[TokenView]
