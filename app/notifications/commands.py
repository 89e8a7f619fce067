"""`flask notify` sends a message to a user from a process that is not an instance."""

import time

import click
from flask.cli import with_appcontext

from app.auth.service import Accounts
from app.core.errors import NotFound
from app.core.extensions import extension
from app.database.cli import UnknownAccount, Utf8Text, database_of_command
from app.notifications.service import Notifications


@click.command()
@click.argument("email", type=Utf8Text())
@click.argument("message", type=Utf8Text())
@click.option("--count", default=1, type=click.IntRange(min=1), help="The number of notifications.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Notifications per second, at most.")
@with_appcontext
def notify(email: str, message: str, count: int, rate: float | None) -> None:
    """Send the user EMAIL a notification with the title MESSAGE. Prints the number of each notification."""
    accounts = extension(Accounts, "accounts")
    notifications = extension(Notifications, "notifications_of_commands")
    with database_of_command():
        user = accounts.by_email(email)
        if user is None:
            raise UnknownAccount(email)
        started = time.monotonic()
        for number in range(count):
            if rate:
                time.sleep(max(0.0, started + number / rate - time.monotonic()))
            try:
                click.echo(notifications.send(user.id, "message", message, {}).seq)
            except NotFound:  # deleted in the meantime
                raise UnknownAccount(email) from None
