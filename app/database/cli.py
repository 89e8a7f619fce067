"""Access to the database for `flask` commands."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from sqlalchemy import make_url

from app.core.errors import cause_of
from app.core.extensions import extension
from app.database.engine import Database, DatabaseReadOnly, DatabaseUnavailable


class Utf8Text(click.ParamType[str]):
    """A text that the database can store. Python represents bytes of the command line that are not UTF-8 as surrogates."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise click.ClickException(f"{(param and param.human_readable_name) or self.name} is not valid UTF-8") from None
        return str(value)


class UnknownAccount(click.ClickException):
    def __init__(self, email: str) -> None:
        super().__init__(f"there is no account with the e-mail address {email}; check the spelling")


@contextmanager
def database_of_command() -> Iterator[Database]:
    """Provide the database; if it is unavailable, end the command with an error that names it, without its password."""
    database = extension(Database, "database")
    try:
        yield database
    except DatabaseUnavailable as error:
        where = make_url(database.url).render_as_string(hide_password=True)
        state = "is read-only" if isinstance(error, DatabaseReadOnly) else "does not answer"
        raise click.ClickException(f"the database at {where} {state}: {cause_of(error)}") from None
