"""The heartbeat of an instance in SQL, beside the one in Redis: who is in one of them alone uses another store than we do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, delete, select, text
from sqlalchemy.dialects import postgresql

from app.database.clock import now
from app.database.schema import heartbeats

FRESH = timedelta(seconds=2.5)  # less than the registry's SILENT_SECONDS: who died is forgotten here first
KEPT = timedelta(hours=1)


@dataclass(frozen=True)
class Pulse:
    nonce: str
    instance_id: str
    is_ready: bool


def beat(connection: Connection, own: Pulse) -> list[Pulse]:
    """Those of all instances that were heard lately."""
    moment = now(connection)
    values = {**vars(own), "seen_at": moment}
    connection.execute(
        postgresql.insert(heartbeats).values(values).on_conflict_do_update(index_elements=["nonce"], set_=values),
    )
    connection.execute(delete(heartbeats).where(heartbeats.c.seen_at < moment - KEPT))
    fresh = select(heartbeats.c.nonce, heartbeats.c.instance_id, heartbeats.c.is_ready).where(
        heartbeats.c.seen_at > moment - FRESH
    )
    return [Pulse(*row) for row in connection.execute(fresh)]


def forget(connection: Connection, nonce: str) -> None:
    connection.execute(delete(heartbeats).where(heartbeats.c.nonce == nonce))


def connection_limit(connection: Connection) -> int:
    """How many connections PostgreSQL gives to ordinary users."""
    limit = "current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    return int(connection.execute(text(f"SELECT {limit}")).scalar_one())
