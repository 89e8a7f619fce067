"""The temporary accounts of the doctor in SQL. Each function is work for `Database.run`."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, select

from app.database.schema import users

ADDRESSES = "doctor-%@doctor.invalid"  # a domain that nobody can register: RFC 2606


def abandoned_accounts(connection: Connection, older_than_seconds: float) -> list[int]:
    """Return the user IDs that a killed doctor left behind."""
    limit = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
    abandoned = users.c.email.like(ADDRESSES) & (users.c.created_at < limit)
    return list(connection.execute(select(users.c.id).where(abandoned)).scalars())
