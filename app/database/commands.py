"""`flask schema`: database migrations, run by the release step."""

import click
from flask.cli import with_appcontext

from app.database.cli import database_of_command
from app.database.upgrade import find_encoding_error, upgrade


@click.group()
def schema() -> None:
    """Manage the database schema."""


@schema.command("upgrade")
@with_appcontext
def upgrade_command() -> None:
    """Bring the schema up to date. Safe to run repeatedly, concurrently, and after a rollback of the code."""
    with database_of_command(needs_schema=False) as database:
        if error := database.run(find_encoding_error):
            raise click.ClickException(error)
        newer_revision = upgrade(database)
    if newer_revision:
        click.echo(f"The schema (revision {newer_revision}) is newer than this code: left unchanged.")
    else:
        click.echo("The schema is up to date.")
