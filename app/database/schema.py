"""All tables. The migrations build them; a test holds that both say the same, on PostgreSQL and on SQLite."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)


class Moment(TypeDecorator[datetime]):
    """A point in time, always in UTC; SQLite, which has no such type, keeps it without the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Identifier = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers only INTEGER keys by itself

users = Table(
    "users",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("email", String(254), nullable=False, unique=True),
    Column("password_hash", String(255), nullable=False),
    # Counts password changes: a session or a login that knows an older one is no longer valid.
    Column("password_version", Integer, nullable=False, default=1),
    Column("is_admin", Boolean, nullable=False, default=False),
    Column("created_at", Moment, nullable=False),
    sqlite_autoincrement=True,  # the id of a deleted account is never given again
)

# Sessions of embedded mode; a fleet keeps them in Redis. One row a field, so that writers of different fields do not meet.
sessions = Table(
    "sessions",
    metadata,
    Column("key", String(80), primary_key=True),
    Column("user_id", Identifier, ForeignKey("users.id", ondelete="CASCADE"), index=True),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False, index=True),
)
session_fields = Table(
    "session_fields",
    metadata,
    Column("key", String(80), ForeignKey("sessions.key", ondelete="CASCADE"), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)
