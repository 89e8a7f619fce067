"""Deletion in batches: each transaction of a periodic task deletes a limited number of rows."""

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, delete, select, tuple_

RUN_SECONDS = 2.0  # of one run of a task; what is left is deleted by the next runs


def run_batches(run_batch: Callable[[], bool]) -> bool:
    """Repeat a transaction while it returns True, which means that there is more to do, for RUN_SECONDS at most.

    Return whether there is more to do.
    """
    deadline = time.monotonic() + RUN_SECONDS
    while run_batch():
        if time.monotonic() > deadline:
            return True
    return False


def delete_batch(connection: Connection, table: Table, limit: int, *conditions: ColumnElement[bool]) -> int:
    """Delete up to `limit` rows that fulfil the conditions, and return their number. Locked rows are skipped."""
    batch = select(*table.primary_key).where(*conditions).limit(limit)
    return connection.execute(delete(table).where(is_in_batch(table, batch))).rowcount


def is_in_batch(table: Table, batch: Select[Any]) -> ColumnElement[bool]:
    """Return the condition that the key of a row is among those that `batch` selects and that no other transaction has locked.

    Waiting for locked rows could deadlock, and the next run finds them again.
    """
    locked = batch.with_for_update(skip_locked=True, of=table)
    # Materialized, because PostgreSQL could otherwise select the batch anew for each row.
    keys = locked.cte("batch", nesting=True).prefix_with("MATERIALIZED", dialect="postgresql")
    return tuple_(*table.primary_key).in_(select(*keys.c))
