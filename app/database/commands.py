"""`flask schema`: database migrations, run by the release step."""

import click
from flask.cli import with_appcontext

from app.database.cli import database_of_command
from app.database.upgrade import upgrade


@click.group()
def schema() -> None:
    """Manage the database schema."""


@schema.command("upgrade")
@with_appcontext
def upgrade_command() -> None:
    """Bring the schema up to date. Safe to run repeatedly and concurrently."""
    with database_of_command() as database:
        upgrade(database)
    click.echo("The schema is up to date.")
