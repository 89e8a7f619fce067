"""The heartbeat of an instance in SQL, beside the one in Redis: an instance seen in only one of them uses another store."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, delete, func, select, text
from sqlalchemy.dialects import postgresql

from app.database.batches import delete_batch
from app.database.clock import now
from app.database.schema import heartbeats

FRESH = timedelta(seconds=2.5)  # shorter than the registry's SILENT_SECONDS: a dead instance becomes stale here first
KEPT = timedelta(hours=1)
DELETED_PER_START = 100  # old heartbeats


@dataclass(frozen=True)
class SqlHeartbeat:
    nonce: str
    instance_id: str
    is_ready: bool
    is_fresh: bool = True  # a slow database delays heartbeats; a dead instance has none


def record(connection: Connection, own: SqlHeartbeat) -> None:
    """Store the own heartbeat. This reads no other row."""
    values = {
        "nonce": own.nonce,
        "instance_id": own.instance_id,
        "is_ready": own.is_ready,
        "seen_at": func.clock_timestamp(),
    }
    connection.execute(
        postgresql.insert(heartbeats).values(values).on_conflict_do_update(index_elements=["nonce"], set_=values),
    )


def delete_old(connection: Connection) -> None:
    """Delete heartbeats of instances that crashed long ago."""
    delete_batch(connection, heartbeats, DELETED_PER_START, heartbeats.c.seen_at < now(connection) - KEPT)


def read(connection: Connection) -> list[SqlHeartbeat]:
    """Return the heartbeats of the last hour, except of instances that signed off."""
    is_fresh = heartbeats.c.seen_at > now(connection) - FRESH
    rows = select(heartbeats.c.nonce, heartbeats.c.instance_id, heartbeats.c.is_ready, is_fresh)
    return [SqlHeartbeat(*row) for row in connection.execute(rows)]


def delete_own(connection: Connection, nonce: str) -> None:
    connection.execute(delete(heartbeats).where(heartbeats.c.nonce == nonce))


def connection_limit(connection: Connection) -> int:
    """Return how many connections PostgreSQL accepts from ordinary users."""
    limit = "current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    return int(connection.execute(text(f"SELECT {limit}")).scalar_one())
