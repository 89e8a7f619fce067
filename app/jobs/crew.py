"""Those who do the jobs of a process: Dramatiq's worker and the sweep, as threads, or greenlets where gevent has patched."""

from __future__ import annotations

import logging
import threading

import dramatiq
import redis

from app.jobs.broker import JobQueue
from app.repositories.jobs import Analyst

PATIENCE_MS, ALONE_PATIENCE_MS = 1000, 100

log = logging.getLogger(__name__)


class Crew:
    def __init__(self, queue: JobQueue, analyst: Analyst, size: int, *, alone: bool = False) -> None:
        """`size`: how many analyses are done at once. `alone`: there is no other crew, so that what is begun was left behind."""
        self._alone = alone
        self._stopped = False
        # An idle thread notices a stop after that time; over Redis it is also the longest pause between two looks for work.
        patience_ms = ALONE_PATIENCE_MS if alone else PATIENCE_MS
        self._worker = dramatiq.Worker(queue.broker, worker_threads=size, worker_timeout=patience_ms)
        self._worker.queue_prefetch = size  # what it fetched beyond that would wait here while others are idle
        self._analyst = analyst
        self._sweep = threading.Thread(target=analyst.look_after, name="sweep", daemon=True)

    def start(self) -> None:
        if self._alone and not self._stopped:
            self._analyst.resume()
        if self._stopped:  # meanwhile
            return
        self._worker.start()
        self._sweep.start()

    def stop(self, seconds: float) -> None:
        """Hands over what is being done; waits for that so many seconds at most."""
        self._stopped = True
        if not self._sweep.is_alive():
            return
        # First nothing new is fetched: what is handed over would else come back to this very process.
        for consumer in self._worker.consumers.values():
            consumer.stop()
        for worker in self._worker.workers:
            worker.stop()
        self._analyst.stop()
        try:
            self._worker.stop(timeout=int(seconds * 1000))
        except redis.RedisError as error:
            log.warning("messages could not be given back, and will be missed: %s", type(error).__name__)
        self._sweep.join(timeout=1)
