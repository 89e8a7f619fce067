"""Database access for `flask` commands."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
from sqlalchemy import make_url

from app.core.errors import cause_of
from app.core.extensions import extension
from app.database.engine import Database, DatabaseUnavailable


@contextmanager
def database_of_command() -> Iterator[Database]:
    """Provide the database; if it is unavailable, end the command with an error that names it, without its password."""
    database = extension(Database, "database")
    try:
        yield database
    except DatabaseUnavailable as error:
        where = make_url(database.url).render_as_string(hide_password=True)
        raise click.ClickException(f"the database at {where} does not answer: {cause_of(error)}") from None
