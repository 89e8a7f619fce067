"""Locks on the rows of users, which the writing operations of several features share.

Every transaction locks rows in this order, and several rows of one table in the order of their keys, so that no two transactions
wait for each other: users, inboxes, channels, repositories, analyses and exports, people. Work that has to skip the order, such
as a sweep over many rows, uses SKIP LOCKED and so does not wait.
"""

from sqlalchemy import Connection, select

from app.core.errors import NotSignedIn
from app.database.schema import users


def lock_user(connection: Connection, user_id: int) -> None:
    """Make other transactions that lock this user wait: for limits per user, and for rows that refer to the user.

    Raises NotSignedIn if the account was deleted after the request had been authenticated.
    """
    # NO KEY UPDATE: transactions that only insert a notification for this user do not wait.
    locked = select(users.c.id).where(users.c.id == user_id).with_for_update(key_share=True)
    if connection.execute(locked).first() is None:
        raise NotSignedIn("This account has been deleted.")


def lock_user_for_deletion(connection: Connection, user_id: int) -> None:
    """Make all transactions that refer to this user wait."""
    connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update())
