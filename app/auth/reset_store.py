"""Links under which users set a new password, in SQL. Call each function through `Database.run`."""

from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from app.auth.store import User
from app.database.batches import delete_batch
from app.database.schema import password_resets, users

EXPIRED_BATCH = 100  # more than one link can leave behind


def add(connection: Connection, digest: str, user: User, now: datetime, expires_at: datetime) -> None:
    """Add a link, and delete expired ones of all users."""
    delete_batch(connection, password_resets, EXPIRED_BATCH, password_resets.c.expires_at <= now)
    values = {"digest": digest, "user_id": user.id, "password_version": user.password_version, "expires_at": expires_at}
    connection.execute(insert(password_resets).values(values))


def user_of(connection: Connection, digest: str, now: datetime) -> User | None:
    """Return the user of a link that can be used: it has not expired, and the password is still the one that it replaces."""
    links = password_resets.c
    is_current = (users.c.id == links.user_id) & (users.c.password_version == links.password_version)
    found = select(users).join(password_resets, is_current).where(links.digest == digest, links.expires_at > now)
    row = connection.execute(found).one_or_none()
    return User(**row._mapping) if row else None


def remove(connection: Connection, digest: str) -> bool:
    """Return False if the link does not exist, for example because a concurrent request has used it."""
    return connection.execute(delete(password_resets).where(password_resets.c.digest == digest)).rowcount == 1
