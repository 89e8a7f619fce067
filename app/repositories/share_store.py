"""The links under which followers share reports, in SQL. Each function is work for `Database.run`.

A link is a column of the follower's row, so it ends when the follower unfollows the repository or deletes the account.
"""

from sqlalchemy import Connection, select, update

from app.database.schema import follows, repositories
from app.repositories.store import REPOSITORY_COLUMNS, Repository, follow_of


def create_key(connection: Connection, user_id: int, repository_id: int, key: str) -> str | None:
    """Save the key unless there is one already. Return the saved one, or None if the user does not follow the repository."""
    this = follow_of(user_id, repository_id)
    connection.execute(update(follows).where(this, follows.c.share_key.is_(None)).values(share_key=key))
    return key_of(connection, user_id, repository_id)


def remove_key(connection: Connection, user_id: int, repository_id: int) -> bool:
    """Delete the key. Return False if there is none."""
    this = follow_of(user_id, repository_id) & follows.c.share_key.is_not(None)
    return connection.execute(update(follows).where(this).values(share_key=None)).rowcount == 1


def key_of(connection: Connection, user_id: int, repository_id: int) -> str | None:
    found: str | None = connection.execute(select(follows.c.share_key).where(follow_of(user_id, repository_id))).scalar()
    return found


def shared_repository(connection: Connection, key: str) -> Repository | None:
    joined = select(*REPOSITORY_COLUMNS).join(follows, follows.c.repository_id == repositories.c.id)
    row = connection.execute(joined.where(follows.c.share_key == key)).first()
    return Repository(*row) if row else None
