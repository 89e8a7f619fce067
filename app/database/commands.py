"""`flask schema`: the release step."""

from __future__ import annotations

import click
from flask import current_app
from flask.cli import with_appcontext

from app.database.engine import Database, DatabaseUnavailable
from app.database.upgrade import upgrade


@click.group()
def schema() -> None:
    """The database's schema."""


@schema.command("upgrade")
@with_appcontext
def upgrade_command() -> None:
    """Bring the schema up to date. Safe to run any number of times, and by several at once."""
    database: Database = current_app.extensions["database"]
    try:
        upgrade(database)
    except DatabaseUnavailable as error:
        raise click.ClickException(f"the database does not answer: {error.__cause__}") from None
    click.echo("The schema is up to date.")
