"""The last step of an event into SQL; and out of it again, when its time is over."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from app.analytics import store
from app.analytics.store import Accepted
from app.core.config import Config
from app.core.messages import ANALYTICS_ROOM, Message, Publish
from app.database.engine import Database

log = logging.getLogger(__name__)

PURGE_SECONDS, PURGE_BATCH = 10.0, 10_000


class Storage:
    def __init__(self, config: Config, database: Database, publish: Publish) -> None:
        self._retention = timedelta(days=config.analytics_retention_days)
        self._database = database
        self._publish = publish

    def store(self, batch: Sequence[Accepted], seconds: float) -> list[Accepted]:
        """Within so many seconds. Returns those, themselves, that have to be tried again in a moment; raises Unavailable."""
        outcome = self._database.run_within(seconds, store.keep, batch, self._oldest)
        log.debug("%d events stored, %d not", outcome.stored, outcome.dropped)
        if outcome.stored:
            self._publish([Message(ANALYTICS_ROOM, "events_stored", {"count": outcome.stored})])
        return outcome.later

    @property
    def _oldest(self) -> datetime:
        return datetime.now(UTC) - self._retention


class Retention:
    """ANALYTICS_RETENTION_DAYS, enforced again and again."""

    def __init__(self, config: Config, database: Database) -> None:
        self._days = timedelta(days=config.analytics_retention_days)
        self._database = database

    def purge(self) -> None:
        """Deletes what is older, and the keys of past days."""
        oldest = datetime.now(UTC) - self._days
        while self._database.run_within(PURGE_SECONDS, store.purge, oldest, PURGE_BATCH) == PURGE_BATCH:
            log.info("%d old events were deleted", PURGE_BATCH)
