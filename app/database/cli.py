"""What all commands of `flask --app wsgi` share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from sqlalchemy import make_url

from app.core.errors import cause_of
from app.core.extensions import extension
from app.database.engine import Database, DatabaseUnavailable


@contextmanager
def database_of_command() -> Iterator[Database]:
    """A database that does not answer is told in a sentence that says which, without its password."""
    database = extension(Database, "database")
    try:
        yield database
    except DatabaseUnavailable as error:
        where = make_url(database.url).render_as_string(hide_password=True)
        raise click.ClickException(f"the database at {where} does not answer: {cause_of(error)}") from None
