"""Accounts in SQL. Call each function through `Database.run`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.database.schema import users


class EmailTaken(Exception):
    pass


@dataclass(frozen=True)
class User:
    id: int
    email: str
    password_hash: str
    password_version: int
    is_admin: bool
    created_at: datetime


def add(connection: Connection, email: str, password_hash: str) -> User:
    """Raises EmailTaken."""
    values = {
        "email": email,
        "password_hash": password_hash,
        "password_version": 1,
        "is_admin": False,
        "created_at": datetime.now(UTC),
    }
    try:
        user_id = connection.execute(insert(users).values(values).returning(users.c.id)).scalar_one()
    except IntegrityError:
        raise EmailTaken from None
    return User(id=user_id, **values)  # type: ignore[arg-type]


def by_id(connection: Connection, user_id: int) -> User | None:
    return _one(connection, users.c.id == user_id)


def by_email(connection: Connection, email: str) -> User | None:
    return _one(connection, users.c.email == email)


def password_versions(connection: Connection, user_ids: Sequence[int]) -> dict[int, int]:
    rows = connection.execute(select(users.c.id, users.c.password_version).where(users.c.id.in_(user_ids)))
    return {row.id: row.password_version for row in rows}


def set_password(connection: Connection, user: User, password_hash: str, *, version: int) -> bool:
    """Return False if another request has changed the password since `user` was read."""
    unchanged = (users.c.id == user.id) & (users.c.password_version == user.password_version)
    values = {"password_hash": password_hash, "password_version": version}
    return connection.execute(update(users).where(unchanged).values(values)).rowcount == 1


def promote(connection: Connection, email: str) -> bool:
    return connection.execute(update(users).where(users.c.email == email).values(is_admin=True)).rowcount == 1


def remove(connection: Connection, user_id: int) -> None:
    connection.execute(delete(users).where(users.c.id == user_id))


def _one(connection: Connection, condition: ColumnElement[bool]) -> User | None:
    row = connection.execute(select(users).where(condition)).one_or_none()
    return User(**row._mapping) if row else None
