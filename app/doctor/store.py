"""The accounts that the doctor makes for a minute, in SQL. Each function is work for `Database.run`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete

from app.database.schema import users

ADDRESSES = "doctor-%@doctor.invalid"  # a domain that nobody can have: RFC 2606


def remove_forgotten(connection: Connection, older_than_seconds: float) -> None:
    """Of an earlier doctor who was killed."""
    limit = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
    connection.execute(delete(users).where(users.c.email.like(ADDRESSES), users.c.created_at < limit))


def remove(connection: Connection, user_id: int) -> None:
    connection.execute(delete(users).where(users.c.id == user_id))
