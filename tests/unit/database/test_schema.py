from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from threading import Thread
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from sqlalchemy import Column, Connection, Integer, MetaData, Table, insert, inspect, select, text

from app import create_app
from app.core import config
from app.database import upgrade as upgrading
from app.database.engine import Database
from app.database.schema import metadata, users
from app.database.upgrade import find_schema_error, upgrade
from harness.servers import PostgresServer, fleet_environment
from tests.unit.database.conftest import postgresql_url


@pytest.fixture
def migrated(empty: Database) -> Database:
    upgrade(empty)
    return empty


def differences(connection: Connection, wanted: MetaData) -> list[Any]:
    found: list[Any] = compare_metadata(
        MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True}), wanted
    )
    return found


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def test_migrations_build_the_schema(migrated: Database) -> None:
    assert migrated.run(differences, metadata) == []


def test_table_missing_in_the_migrations_is_detected(migrated: Database) -> None:
    wanted = MetaData(naming_convention=metadata.naming_convention)
    for table in metadata.tables.values():
        table.to_metadata(wanted)
    Table("forgotten", wanted, Column("id", Integer, primary_key=True))
    assert [difference[0] for difference in migrated.run(differences, wanted)] == ["add_table"]


def test_upgrade_is_idempotent(migrated: Database) -> None:
    values = {"email": "a@b.org", "password_hash": "", "created_at": datetime.now(UTC)}
    migrated.run(lambda connection: connection.execute(insert(users).values(values)))
    upgrade(migrated)
    assert migrated.run(lambda connection: connection.execute(select(users.c.email)).scalar_one()) == "a@b.org"
    assert migrated.run(find_schema_error) is None


def test_concurrent_upgrades_succeed(empty_database_url: str) -> None:
    databases = [Database(postgresql_url(empty_database_url), 1, f"test-{number}") for number in range(4)]
    faults: list[BaseException] = []

    def run(database: Database) -> None:
        try:
            upgrade(database)
        except BaseException as fault:
            faults.append(fault)

    threads = [Thread(target=run, args=[database]) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert databases[0].run(find_schema_error) is None
    for database in databases:
        database.close()


def test_failed_upgrade_is_rolled_back(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_at_the_end(configuration: Any, revision: str) -> None:
        real(configuration, revision)
        raise RuntimeError("at the very end")

    real = command.upgrade
    monkeypatch.setattr(command, "upgrade", fail_at_the_end)
    with pytest.raises(RuntimeError):
        upgrade(empty)
    assert empty.run(tables) == set()
    monkeypatch.undo()
    upgrade(empty)
    assert {"users", "alembic_version"} <= empty.run(tables)


# Schema version check.


def set_version(database: Database, version: str | None) -> None:
    def change(connection: Connection) -> None:
        connection.execute(text("DELETE FROM alembic_version"))
        if version:
            connection.execute(text("INSERT INTO alembic_version VALUES (:version)"), {"version": version})

    database.run(change)


def test_file_names_of_migrations_begin_with_their_revision() -> None:
    configuration = AlembicConfig()
    configuration.set_main_option("script_location", str(upgrading._MIGRATIONS))
    scripts = ScriptDirectory.from_config(configuration).walk_revisions()
    assert tuple(script.revision for script in scripts) == upgrading._REVISIONS


def test_missing_schema_is_reported(empty: Database) -> None:
    assert empty.run(find_schema_error) == "the schema is missing; run: flask --app wsgi schema upgrade"


def test_current_schema_is_accepted(migrated: Database) -> None:
    assert migrated.run(find_schema_error) is None


def test_outdated_schema_is_reported(migrated: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = ("next", *upgrading._REVISIONS)
    monkeypatch.setattr(upgrading, "_REVISIONS", newer)
    for version in (*newer[1:], None):
        set_version(migrated, version)
        assert migrated.run(find_schema_error) == "the schema is older than the code; run: flask --app wsgi schema upgrade"
    set_version(migrated, "next")
    assert migrated.run(find_schema_error) is None


def test_newer_schema_is_accepted(migrated: Database) -> None:
    set_version(migrated, "9999")
    assert migrated.run(find_schema_error) is None


def test_upgrade_leaves_a_newer_schema_unchanged(migrated: Database) -> None:
    def migrate_further(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE users ADD COLUMN nickname TEXT"))

    migrated.run(migrate_further)
    set_version(migrated, "9999")
    assert upgrade(migrated) == "9999"
    assert migrated.run(differences, metadata) != []
    assert migrated.run(lambda connection: connection.execute(text("SELECT version_num FROM alembic_version")).scalar()) == "9999"


def test_upgrade_command_succeeds_after_a_rollback_of_the_code(app: Flask) -> None:
    set_version(database_of(app), "9999")
    result = app.test_cli_runner().invoke(args=["schema", "upgrade"])
    assert (result.exit_code, result.output) == (0, "The schema (revision 9999) is newer than this code: left unchanged.\n")
    assert app.test_client().get("/login").status_code == 200


def test_upgrade_command_reports_a_current_schema(app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["schema", "upgrade"])
    assert (result.exit_code, result.output) == (0, "The schema is up to date.\n")


def database_of(app: Flask) -> Database:
    database: Database = app.extensions["database"]
    return database


# Encoding.


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def other_encoding(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a database that cannot store every text."""
    url = postgres_server.create_empty_database(f"TEMPLATE template0 ENCODING '{request.param}'")
    yield url
    postgres_server.drop_database(url)


def test_database_that_cannot_store_utf8_is_refused_by_name(other_encoding: str) -> None:
    database = Database(postgresql_url(other_encoding), 1, "test")
    error = database.run(find_schema_error) or ""
    assert error.startswith(("the encoding of the database is SQL_ASCII", "the encoding of the database is LATIN1"))
    assert "ENCODING 'UTF8'" in error
    database.close()


def test_upgrade_command_refuses_a_database_that_cannot_store_utf8(other_encoding: str, redis_url: str) -> None:
    app = create_app(config.load(fleet_environment(redis_url, other_encoding)))
    result = app.test_cli_runner().invoke(args=["schema", "upgrade"])
    assert result.exit_code == 1
    assert "the encoding of the database is" in result.output
    database_of(app).close()


def test_client_encoding_is_utf8_whatever_the_environment_says(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    database = Database(postgresql_url(empty_database_url), 1, "test")
    assert database.run(lambda connection: connection.execute(text("SHOW client_encoding")).scalar()) == "UTF8"
    database.close()


# Timestamps.


def round_trip(connection: Connection, timestamp: datetime) -> datetime:
    values = {"email": "a@b.org", "password_hash": "", "created_at": timestamp}
    connection.execute(insert(users).values(values))
    found: datetime = connection.execute(select(users.c.created_at)).scalar_one()
    return found


@pytest.mark.parametrize(
    "timestamp",
    [
        datetime(2025, 10, 3, 20, 0, 0, 123_456, tzinfo=UTC),
        datetime(2025, 10, 3, 23, 0, tzinfo=timezone(timedelta(hours=-7))),
        datetime(2025, 10, 26, 2, 30, tzinfo=timezone(timedelta(hours=2))),
    ],
    ids=["utc", "west", "east"],
)
def test_timestamp_round_trip_returns_utc(migrated: Database, timestamp: datetime) -> None:
    found = migrated.run(round_trip, timestamp)
    assert found == timestamp
    assert found.utcoffset() == timedelta(0)


def test_time_zone_of_the_server_has_no_effect(postgresql: Database) -> None:
    upgrade(postgresql)

    def far_away(connection: Connection) -> datetime:
        connection.execute(text("SET TIME ZONE 'Asia/Tokyo'"))
        return round_trip(connection, datetime(2025, 10, 3, 20, tzinfo=UTC))

    assert postgresql.run(far_away).utcoffset() == timedelta(0)
