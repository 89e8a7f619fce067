"""The fault: an opt-out fails open.

At the door (`app`): a change of mind is not announced, and so an instance goes by what was known before, without being certain.
Where events are stored (run as a job worker): whatever was accepted once is stored, whoever has said no meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from app import create_app, worker
from app.analytics import rollups, store
from app.analytics.intake import RedisIntake
from app.analytics.store import Accepted, Outcome
from app.core import config
from app.database.clock import now


def keep(connection: Connection, batch: Sequence[Accepted], oldest: datetime) -> Outcome:
    stored = store._insert(connection, batch, now(connection))
    rollups.count(connection, stored)
    return Outcome(len(stored))


def forget_to(*_: Any) -> None:
    pass


if __name__ == "__main__":
    store.keep = keep
    worker.main()
else:
    RedisIntake.begin_change = RedisIntake.settle_change = forget_to  # type: ignore[assignment, method-assign]
    app = create_app(config.from_environment_or_exit())
