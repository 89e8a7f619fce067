"""The clock of the database, which all instances share."""

from datetime import UTC, datetime

from sqlalchemy import Connection, func, select


def now(connection: Connection) -> datetime:
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    timestamp: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return timestamp.astimezone(UTC)
