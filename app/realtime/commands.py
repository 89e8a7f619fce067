"""`flask emit` emits a Socket.IO event from a process that is not an instance."""

import json
from contextlib import closing

import click
from flask import current_app
from flask.cli import with_appcontext

from app.core.config import ConfigError
from app.core.errors import Unavailable, cause_of
from app.database.cli import Utf8Text
from app.realtime.publisher import Publisher


class NotEmitted(click.ClickException):
    """The event can't be emitted. The reason is shown in one line."""

    exit_code = 2


@click.command()
@click.argument("room", type=Utf8Text())
@click.argument("event", type=Utf8Text())
@click.argument("data", type=Utf8Text(), metavar="[JSON]", required=False)
@with_appcontext
def emit(room: str, event: str, data: str | None) -> None:
    """Emit the Socket.IO event EVENT to every socket in ROOM, on every instance.

    ROOM is user:ID for the sockets of one user, and all for every socket. JSON is the argument of the event. The command
    prints how many instances received the event.
    """
    try:
        with closing(Publisher(current_app.config["REPORADAR"])) as publisher:
            receivers = publisher.emit(event, None if data is None else _parse(data), room)
    except (ConfigError, ValueError) as fault:
        raise NotEmitted(str(fault)) from None
    except Unavailable as error:
        raise click.ClickException(f"the event may not have been emitted: Redis does not answer: {cause_of(error)}") from None
    click.echo(f"received by {receivers} instance{'' if receivers == 1 else 's'}")


def _parse(data: str) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotEmitted(f"the data are not JSON: {error}") from None
