"""Databases with the current schema, for tests: the schema is migrated once and then copied."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from app.database.engine import Database
from app.database.upgrade import upgrade


def open_database(url: str) -> Database:
    """Connect to a database as the application does. The caller closes it."""
    return Database(url.replace("postgresql:", "postgresql+psycopg2:"), 1, "test")


def upgrade_database(url: str) -> None:
    """Run the missing migrations in this process."""
    with closing(open_database(url)) as database:
        upgrade(database)


@functools.cache
def migrated_sqlite_file() -> Path:
    """Return an empty SQLite database with the current schema, to be copied. It is removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="reporadar-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    upgrade_database(f"sqlite:///{folder}/template.db")
    return folder / "template.db"


def migrate_database(url: str) -> None:
    """Bring a database to the current schema; a missing SQLite file is copied from the template."""
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:") and not path.exists():
        shutil.copy(migrated_sqlite_file(), path)
    else:
        upgrade_database(url)
