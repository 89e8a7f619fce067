"""The accounts that the doctor makes for a minute, in SQL. Each function is work for `Database.run`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, select

from app.database.schema import users

ADDRESSES = "doctor-%@doctor.invalid"  # a domain that nobody can have: RFC 2606


def forgotten(connection: Connection, older_than_seconds: float) -> list[int]:
    """Of an earlier doctor who was killed."""
    limit = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
    old = users.c.email.like(ADDRESSES) & (users.c.created_at < limit)
    return list(connection.execute(select(users.c.id).where(old)).scalars())
