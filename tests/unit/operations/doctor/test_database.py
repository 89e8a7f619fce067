from __future__ import annotations

import pytest

from app.core import config
from app.database.engine import Database
from app.operations.doctor.database import _connection_budget, examine
from harness.servers import PostgresServer, fleet_environment


@pytest.mark.parametrize(("instances", "status"), [(2, "ok"), (3, "warn"), (4, "fail")])
def test_connection_budget(instances: int, status: str) -> None:
    """The server allows 20 connections and a worker uses 5: 3 instances fill it, and a rolling restart needs one more."""
    settings = config.load(fleet_environment("redis://127.0.0.1", "postgresql://127.0.0.1/reporadar"))
    limits = {"max_connections": 23, "superuser_reserved_connections": 3}
    assert _connection_budget(settings, instances, limits, {"instance-1": 2, "instance-1-worker": 5, "psql": 1}).status == status


def test_database_that_cannot_store_utf8_is_found(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_empty_database("TEMPLATE template0 ENCODING 'LATIN1'")
    settings = config.load(fleet_environment("redis://127.0.0.1", url))
    database = Database(settings.database_url, 1, "doctor")
    findings = [finding for finding in examine(settings, database, 1) if finding.status == "fail"]
    database.close()
    postgres_server.drop_database(url)
    assert [(finding.text, finding.advice) for finding in findings] == [
        (
            "database: the encoding of the database is LATIN1, not UTF8",
            "Create another with: CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8'",
        )
    ]
