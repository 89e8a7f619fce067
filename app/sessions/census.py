"""How many session records still need each key: 0 tells the operator that an old one may be dropped."""

from __future__ import annotations

import logging
import time
from collections import Counter
from itertools import chain

import gevent

from app.core import metrics
from app.core.errors import Unavailable
from app.core.keyring import Keyring
from app.sessions.store import SessionStore

log = logging.getLogger(__name__)

PAUSE_SECONDS = 15.0
PAUSE_PER_SECOND_OF_COUNTING = 10  # a census walks through all sessions: it may take a tenth of the time


class KeyCensus:
    def __init__(self, store: SessionStore, rings: list[Keyring]) -> None:
        self._store = store
        self._rings = rings

    @property
    def is_needed(self) -> bool:
        return any(len(ring.ids) > 1 for ring in self._rings)

    def run(self) -> None:
        """For ever, as a greenlet, where a rotation is under way."""
        while self.is_needed:
            started = time.monotonic()
            try:
                self.count()
            except Unavailable:
                log.warning("could not count the keys in use")
            gevent.sleep(max(PAUSE_SECONDS, PAUSE_PER_SECOND_OF_COUNTING * (time.monotonic() - started)))

    def count(self) -> None:
        in_use = Counter(chain.from_iterable(self._store.key_ids_in_use()))
        for ring in self._rings:
            for key_id in ring.ids:
                metrics.session_records.labels(ring.name, key_id).set(in_use[key_id])
