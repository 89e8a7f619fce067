"""`flask users`: account commands for operators."""

import click
from flask import current_app
from flask.cli import with_appcontext

from app.auth import audit, store
from app.auth.resets import PasswordResets
from app.core.config import Config
from app.core.extensions import extension
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


@users.command("reset-link")
@click.argument("email", type=Utf8Text())
@with_appcontext
def reset_link(email: str) -> None:
    """Print a link under which the user EMAIL sets a new password. It works once and for an hour."""
    address = email.strip().lower()
    with database_of_command():
        link = extension(PasswordResets, "password_resets").create_link(address)
    if link is None:
        raise UnknownAccount(email)
    audit.log_event("password.reset_link", "cli", account=audit.account_digest(address))
    config: Config = current_app.config["REPORADAR"]
    if config.public_url is None:
        click.echo("PUBLIC_URL is not set: replace the beginning of the link by the address of the site", err=True)
    click.echo(link)
