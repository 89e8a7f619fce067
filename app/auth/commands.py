"""`flask users`: account commands for operators."""

import click
from flask.cli import with_appcontext

from app.auth import audit, store
from app.database.cli import UnknownAccount, Utf8Text, database_of_command


@click.group()
def users() -> None:
    """Manage accounts."""


@users.command()
@click.argument("email", type=Utf8Text())
@with_appcontext
def promote(email: str) -> None:
    """Make the user EMAIL an administrator. This applies from their next request."""
    with database_of_command() as database:
        found = database.run(store.promote, email.strip().lower())
    if not found:
        raise UnknownAccount(email)
    audit.log_event("account.promoted", "cli", account=audit.account_digest(email.strip().lower()))
    click.echo(f"{email} is an administrator now.")
