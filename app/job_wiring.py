"""Those who do the jobs of a process: Dramatiq's worker, and hands beside it; threads, or greenlets where gevent has patched."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Protocol

import dramatiq
import redis

from app.analytics.exports.jobs import Exporter
from app.analytics.storage import Retention
from app.core.config import Config
from app.database.engine import Database
from app.jobs.broker import Queues
from app.jobs.sweep import Sweep
from app.notifications.service import Notifications
from app.repositories.jobs import Analyst

PATIENCE_MS, ALONE_PATIENCE_MS = 1000, 100

log = logging.getLogger(__name__)


class Doer(Protocol):
    """Of one kind of job."""

    def resume(self) -> None: ...

    def stop(self) -> None: ...


class Hand(Protocol):
    """Works beside the jobs, in a thread of its own, until it is stopped."""

    def run(self) -> None: ...

    def stop(self) -> None: ...


def assemble(
    config: Config,
    database: Database,
    notifications: Notifications,
    queues: Queues,
    size: int,
    *,
    others: Sequence[Hand] = (),
    alone: bool = False,
) -> Crew:
    """Those whom every crew has, and others."""
    analyst = Analyst(config, database, notifications, queues.analyses.send)
    exporter = Exporter(database, notifications, queues.exports.send)
    queues.analyses.perform, queues.exports.perform = analyst.perform, exporter.perform
    sweep = Sweep(
        [analyst.sweep, exporter.sweep], hourly=[notifications.purge, exporter.purge, Retention(config, database).purge]
    )
    return Crew(queues.broker, [analyst, exporter], [sweep, *others], size, alone=alone)


class Crew:
    def __init__(
        self, broker: dramatiq.Broker, doers: Sequence[Doer], hands: Sequence[Hand], size: int, *, alone: bool = False
    ) -> None:
        """`size`: how many jobs are done at once. `alone`: there is no other crew, so that what is begun was left behind."""
        self._alone = alone
        self._stopped = False
        # An idle thread notices a stop after that time; over Redis it is also the longest pause between two looks for work.
        patience_ms = ALONE_PATIENCE_MS if alone else PATIENCE_MS
        self._worker = dramatiq.Worker(broker, worker_threads=size, worker_timeout=patience_ms)
        self._worker.queue_prefetch = size  # what it fetched beyond that would wait here while others are idle
        self._doers = doers
        self._hands = hands
        self._threads = [threading.Thread(target=hand.run, name=type(hand).__name__.lower(), daemon=True) for hand in hands]

    def start(self) -> None:
        if self._alone and not self._stopped:
            for doer in self._doers:
                doer.resume()
        if self._stopped:  # meanwhile
            return
        self._worker.start()
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> None:
        """Hands over what is being done; waits for that so many seconds at most."""
        deadline = time.monotonic() + seconds
        self._stopped = True
        if not any(thread.is_alive() for thread in self._threads):
            return
        # First nothing new is fetched: what is handed over would else come back to this very process.
        for consumer in self._worker.consumers.values():
            consumer.stop()
        for worker in self._worker.workers:
            worker.stop()
        for doer in self._doers:
            doer.stop()
        for hand in self._hands:
            hand.stop()
        try:
            self._worker.stop(timeout=int(seconds * 1000))
        except redis.RedisError as error:
            log.warning("messages could not be given back, and will be missed: %s", type(error).__name__)
        for thread in self._threads:
            thread.join(timeout=max(0, deadline - time.monotonic()))
