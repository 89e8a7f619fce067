"""Counts the session records that need each key, so that an operator knows when an old key can be removed."""

import time
from collections import Counter
from itertools import chain

import gevent

from app.core import metrics
from app.core.errors import Unavailable
from app.core.keyring import Keyring
from app.core.tasks import InstanceTask
from app.sessions.store import SessionStore

MIN_PAUSE_SECONDS = 15.0
PAUSE_PER_COUNTING_SECOND = 10  # a count scans all sessions; it may use a tenth of the time


class KeyUsage:
    def __init__(self, store: SessionStore, keyrings: list[Keyring]) -> None:
        self._store = store
        self._keyrings = keyrings
        self._task = InstanceTask("key usage", MIN_PAUSE_SECONDS) if self.is_needed else None

    @property
    def is_needed(self) -> bool:
        return any(len(keyring.ids) > 1 for keyring in self._keyrings)

    def run(self) -> None:
        """Count repeatedly while a key rotation is under way; return at once if there is none."""
        while self._task:
            started = time.monotonic()
            try:
                self.count()
            except Unavailable as error:
                self._task.fail(error)
            else:
                self._task.succeed()
            pause = max(MIN_PAUSE_SECONDS, PAUSE_PER_COUNTING_SECOND * (time.monotonic() - started))
            self._task.set_interval(pause)
            gevent.sleep(pause)

    def count(self) -> None:
        in_use = Counter(chain.from_iterable(self._store.key_ids_in_use()))
        for keyring in self._keyrings:
            for key_id in keyring.ids:
                metrics.session_records.labels(keyring.name, key_id).set(in_use[key_id])
