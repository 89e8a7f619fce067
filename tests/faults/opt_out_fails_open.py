"""The fault: an opt-out fails open.

In an instance (`app`), a change of consent is not marked in Redis, so that instances go on using the cached consent.
In a worker (run as a program), every accepted event is stored, even if its person has opted out meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from app import create_app, worker
from app.analytics import rollups, store
from app.analytics.intake import RedisIntake
from app.analytics.store import AcceptedEvent, StoreResult
from app.core import config
from app.database.clock import now


def store_all(connection: Connection, batch: Sequence[AcceptedEvent], oldest: datetime) -> StoreResult:
    stored = store.insert_events(connection, batch, now(connection))
    rollups.add(connection, stored)
    return StoreResult(len(stored))


def do_nothing(*_: Any) -> None:
    pass


if __name__ == "__main__":
    store.store_events = store_all
    worker.main()
else:
    RedisIntake.begin_consent_change = RedisIntake.commit_consent = do_nothing  # type: ignore[assignment, method-assign]
    app = create_app(config.from_environment_or_exit())
