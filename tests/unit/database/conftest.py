"""Databases without a schema."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.database.engine import Database


@pytest.fixture
def sqlite(request: pytest.FixtureRequest) -> Iterator[Database]:
    database = Database(f"sqlite:///{request.getfixturevalue('tmp_path')}/empty.db", 5, "test")
    yield database
    database.close()


@pytest.fixture
def postgresql(request: pytest.FixtureRequest) -> Iterator[Database]:
    database = Database(postgresql_url(request.getfixturevalue("empty_database_url")), 5, "test")
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(request.param)
    return found


def postgresql_url(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg2:")
