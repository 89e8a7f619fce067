"""API tokens in SQL. Call each function through `Database.run`."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select, update

from app.auth.store import User
from app.database.schema import api_tokens, users


@dataclass(frozen=True)
class ApiToken:
    """A token without its secret."""

    id: int
    user_id: int
    name: str
    scope: str  # read or write
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None  # None: never


_COLUMNS = [column for column in api_tokens.c if column is not api_tokens.c.digest]


def add(connection: Connection, user_id: int, digest: str, values: dict[str, object]) -> ApiToken:
    """Add a token with the values of `name`, `scope`, `created_at` and `expires_at`."""
    row = connection.execute(insert(api_tokens).values(user_id=user_id, digest=digest, **values).returning(*_COLUMNS)).one()
    return ApiToken(**row._mapping)


def of_user(connection: Connection, user_id: int) -> list[ApiToken]:
    """Return the tokens of a user, newest first."""
    found = select(*_COLUMNS).where(api_tokens.c.user_id == user_id).order_by(api_tokens.c.id.desc())
    return [ApiToken(**row._mapping) for row in connection.execute(found)]


def count(connection: Connection, user_id: int) -> int:
    return connection.execute(select(func.count()).where(api_tokens.c.user_id == user_id)).scalar_one()


def by_digest(connection: Connection, digest: str) -> tuple[ApiToken, User] | None:
    """Return the token and its user."""
    joined = select(*_COLUMNS, users).join(users, users.c.id == api_tokens.c.user_id).where(api_tokens.c.digest == digest)
    row = connection.execute(joined).one_or_none()
    if row is None:
        return None
    token = ApiToken(**{column.name: row._mapping[column] for column in _COLUMNS})
    return token, User(**{column.name: row._mapping[column] for column in users.c})


def record_use(connection: Connection, token_id: int, now: datetime, unless_since: datetime) -> None:
    """Set the time of the last use, unless another instance has set it since `unless_since`."""
    last_use = api_tokens.c.last_used_at
    is_due = (api_tokens.c.id == token_id) & ((last_use < unless_since) | last_use.is_(None))
    connection.execute(update(api_tokens).where(is_due).values(last_used_at=now))


def remove(connection: Connection, user_id: int, token_id: int) -> bool:
    """Return False if this user has no such token."""
    is_own = (api_tokens.c.id == token_id) & (api_tokens.c.user_id == user_id)
    return connection.execute(delete(api_tokens).where(is_own)).rowcount == 1


def remove_all(connection: Connection, user_id: int) -> None:
    connection.execute(delete(api_tokens).where(api_tokens.c.user_id == user_id))
