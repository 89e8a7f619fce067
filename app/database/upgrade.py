"""Bringing the schema up to date, and telling whether it is."""

from __future__ import annotations

import functools
from pathlib import Path

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from app.database.engine import Database

# Any number that nothing else in the database uses: instances that start together migrate one after the other.
_ADVISORY_LOCK = 7_267_332_717


def _alembic() -> AlembicConfig:
    configuration = AlembicConfig()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return configuration


UPGRADE_SECONDS = 3600.0


def upgrade(database: Database) -> None:
    """All missing migrations, in one transaction."""
    database.run_within(UPGRADE_SECONDS, _upgrade)


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
    configuration = _alembic()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")


@functools.cache
def _revisions() -> tuple[str, ...]:
    """Newest first, of this code."""
    return tuple(script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions())


def schema_complaint(connection: Connection) -> str | None:
    """What is wrong if this code needs a migration that the database lacks. A schema that is ahead of the code is fine."""
    if not inspect(connection).has_table("alembic_version"):
        return "the schema is missing; run: flask --app wsgi schema upgrade"
    current = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if current is None or current in _revisions()[1:]:
        return "the schema is older than the code; run: flask --app wsgi schema upgrade"
    return None
