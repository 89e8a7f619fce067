"""Access to the database for `flask` commands."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from sqlalchemy import make_url

from app.core.errors import cause_of
from app.core.extensions import extension
from app.database.engine import Database, DatabaseReadOnly, DatabaseUnavailable
from app.database.upgrade import find_schema_error


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
def database_of_command(*, needs_schema: bool = True) -> Iterator[Database]:
    """Provide the database. If it is unavailable or lacks the schema, end the command with an error that names it.

    The error does not contain the password of the database.
    """
    database = extension(Database, "database")
    where = make_url(database.url).render_as_string(hide_password=True)
    try:
        if needs_schema and (error := database.run(find_schema_error)):
            raise click.ClickException(f"the database at {where} cannot be used: {error}")
        yield database
    except DatabaseUnavailable as unavailable:
        state = "is read-only" if isinstance(unavailable, DatabaseReadOnly) else "does not answer"
        raise click.ClickException(f"the database at {where} {state}: {cause_of(unavailable)}") from None
