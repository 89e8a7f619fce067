"""`flask schema`: the release step."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from app.database.cli import database_of_command
from app.database.upgrade import upgrade


@click.group()
def schema() -> None:
    """The database's schema."""


@schema.command("upgrade")
@with_appcontext
def upgrade_command() -> None:
    """Bring the schema up to date. Safe to run any number of times, and by several at once."""
    with database_of_command() as database:
        upgrade(database)
    click.echo("The schema is up to date.")
