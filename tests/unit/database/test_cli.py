from __future__ import annotations

import pytest
from flask import Flask
from sqlalchemy import text

from app.database.engine import Database

EMAIL = "ada@example.org"
NOT_UTF8 = b"bad\xff".decode(errors="surrogateescape")  # as Python decodes the command line


@pytest.fixture(autouse=True)
def account(app: Flask) -> None:
    app.extensions["accounts"].add_without_limit(EMAIL, "correct horse battery")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["notify", EMAIL, NOT_UTF8], "MESSAGE"),
        (["notify", NOT_UTF8, "message"], "EMAIL"),
        (["users", "promote", NOT_UTF8], "EMAIL"),
    ],
)
def test_argument_that_is_not_utf8_gives_one_line(app: Flask, command: list[str], name: str) -> None:
    result = app.test_cli_runner().invoke(args=command)
    assert (result.exit_code, result.output) == (1, f"Error: {name} is not valid UTF-8\n")


@pytest.mark.parametrize("command", [["notify", "bob@example.org", "message"], ["users", "promote", "bob@example.org"]])
def test_unknown_account_gives_one_line(app: Flask, command: list[str]) -> None:
    result = app.test_cli_runner().invoke(args=command)
    expected = "Error: there is no account with the e-mail address bob@example.org; check the spelling\n"
    assert (result.exit_code, result.output) == (1, expected)


def test_account_that_is_deleted_while_it_is_notified_gives_one_line(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = app.extensions["accounts"]
    found = accounts.by_email(EMAIL)
    accounts.delete_without_password(found.id)
    monkeypatch.setattr(accounts, "by_email", lambda _: found)
    result = app.test_cli_runner().invoke(args=["notify", EMAIL, "message"])
    expected = f"Error: there is no account with the e-mail address {EMAIL}; check the spelling\n"
    assert (result.exit_code, result.output) == (1, expected)


@pytest.mark.parametrize("command", [["notify", EMAIL, "message"], ["users", "promote", EMAIL], ["users", "reset-link", EMAIL]])
def test_older_schema_gives_one_line(app: Flask, command: list[str]) -> None:
    database: Database = app.extensions["database"]
    database.run(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '0001'")))
    result = app.test_cli_runner().invoke(args=command)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "the schema is older than the code; run: flask --app wsgi schema upgrade" in result.output


def test_text_beyond_ascii_is_accepted(app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["notify", EMAIL, "größer 🐎"])
    assert (result.exit_code, result.output) == (0, "1\n")
