from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, select

from app.analytics import rollups as counting
from app.analytics.rollups import CountedEvent
from app.database.engine import Database
from app.database.schema import events, rollups, visitors, visits
from bench.events import SHARES, count_all, store
from harness.scale import count

FIRST = datetime(2025, 10, 1, tzinfo=UTC)


def rollup_rows(connection: Connection) -> list[set[tuple[Any, ...]]]:
    return [{tuple(row) for row in connection.execute(select(table))} for table in (rollups, visits, visitors)]


def test_bulk_rollups_equal_incremental_rollups(database_url: str) -> None:
    database = Database(database_url.replace("postgresql:", "postgresql+psycopg2:"), 1, "test")

    number = count(1000, 3000)

    def compare(connection: Connection) -> None:
        store(connection, number, FIRST, FIRST + timedelta(days=3))
        count_all(connection)
        at_once = rollup_rows(connection)
        for table in (rollups, visits, visitors):
            connection.execute(delete(table))
        rows = connection.execute(select(events)).all()
        one_by_one = [CountedEvent(row.person, row.name, row.category, row.path, row.occurred_at) for row in rows]
        for first in range(0, len(one_by_one), 100):
            counting.add(connection, one_by_one[first : first + 100])
        assert rollup_rows(connection) == at_once
        assert len(rows) == number
        assert {row.name for row in rows} == set(SHARES)

    database.run_within(60, compare)
    database.close()
