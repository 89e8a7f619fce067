"""Schema migrations, and the check whether the schema is up to date."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from app.database.engine import Database

# An arbitrary number that nothing else in the database uses. It serializes instances that start at the same time.
_ADVISORY_LOCK = 7_267_332_717

UPGRADE_TIMEOUT_SECONDS = 3600.0
_MIGRATIONS = Path(__file__).parent / "migrations"
# The revisions that this code contains, newest first. The name of each file begins with its revision.
_REVISIONS = tuple(sorted((path.name[:4] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")), reverse=True))


def upgrade(database: Database) -> str | None:
    """Run all missing migrations in one transaction.

    Returns the revision of the database if the code does not know it: the code was rolled back, and nothing is changed.
    """
    return database.run_within(UPGRADE_TIMEOUT_SECONDS, _upgrade)


def _upgrade(connection: Connection) -> str | None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
    current = _current_revision(connection)
    if current is not None and current not in _REVISIONS:
        return current
    _run_migrations(connection)
    return None


def _run_migrations(connection: Connection) -> None:
    # Imported here because it takes a tenth of the start of an instance, which only compares revisions.
    from alembic import command
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", str(_MIGRATIONS))
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")


def _current_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def find_encoding_error(connection: Connection) -> str | None:
    """Return an error if the database cannot store every text. SQLite always can."""
    if connection.dialect.name == "sqlite":
        return None
    encoding = connection.execute(text("SELECT current_setting('server_encoding')")).scalar()
    if encoding == "UTF8":
        return None
    advice = "create another with: CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8'"
    return f"the encoding of the database is {encoding}, not UTF8; {advice}"


def find_schema_error(connection: Connection) -> str | None:
    """Return an error if the encoding is unsuitable or a migration is missing. A schema newer than the code is accepted."""
    if error := find_encoding_error(connection):
        return error
    if not inspect(connection).has_table("alembic_version"):
        return "the schema is missing; run: flask --app wsgi schema upgrade"
    current = _current_revision(connection)
    if current is None or current in _REVISIONS[1:]:
        return "the schema is older than the code; run: flask --app wsgi schema upgrade"
    return None
