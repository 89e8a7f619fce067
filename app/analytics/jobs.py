"""Storing what waits in the stream: in batches, acknowledged after the commit. Of worker processes, beside their jobs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import redis

from app.analytics.storage import Storage
from app.analytics.store import Accepted
from app.analytics.stream import Entry, EventStream
from app.core.errors import Unavailable, cause_of

log = logging.getLogger(__name__)

BATCH = 500
STORE_SECONDS = 10.0
GATHER_SECONDS = 0.05  # after a small batch, so that events that trickle in are not stored one by one
OUTAGE_SECONDS = 0.5


class Storer:
    """One consumer of the stream. What it has read and not stored when it ends, another one finds."""

    def __init__(self, storage: Storage, stream: EventStream) -> None:
        self._storage = storage
        self._stream = stream
        self._stop = threading.Event()
        self._held: dict[bytes, Entry] = {}  # not acknowledged yet

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Until it is stopped."""
        while not self._stop.is_set():
            try:
                read = self.turn()
            except (Unavailable, redis.RedisError) as error:
                log.warning("events have to wait: %s", cause_of(error) or type(error).__name__)
                self._stop.wait(OUTAGE_SECONDS)
            except Exception:  # a thread that ended here would be missed by nobody
                log.exception("storing events failed, and begins again")
                self._stop.wait(OUTAGE_SECONDS)
            else:
                if read < BATCH:
                    self._stop.wait(GATHER_SECONDS)

    def turn(self) -> int:
        """Reads, stores, acknowledges; how many were read."""
        read = self._stream.read(BATCH - len(self._held)) if len(self._held) < BATCH else []
        self._held |= {entry.id: entry for entry in read}
        readable = [(entry, accepted) for entry in list(self._held.values()) if (accepted := self._understood(entry))]
        self._store(readable)
        if len(self._held) == BATCH:  # of people whose rows are locked: let go, they are found again as abandoned ones
            self._held.clear()
        return len(read)

    def _understood(self, entry: Entry) -> Accepted | None:
        try:
            return entry.read()
        except ValueError as error:
            self._put_aside(entry, str(error))
            return None

    def _store(self, batch: Sequence[tuple[Entry, Accepted]]) -> None:
        """One that can't be stored is found by halves, and delays nobody."""
        if not batch:
            return
        try:
            later = self._storage.store([accepted for _, accepted in batch], STORE_SECONDS)
        except Unavailable:
            raise
        except Exception as error:
            if len(batch) == 1:
                self._put_aside(batch[0][0], type(error).__name__)
                return
            middle = len(batch) // 2
            self._store(batch[:middle])
            self._store(batch[middle:])
            return
        left = {id(accepted) for accepted in later}
        self._done([entry for entry, accepted in batch if id(accepted) not in left])

    def _done(self, entries: Sequence[Entry]) -> None:
        if entries:
            self._stream.done(entries)
            for entry in entries:
                del self._held[entry.id]

    def _put_aside(self, entry: Entry, reason: str) -> None:
        self._stream.put_aside(entry)
        del self._held[entry.id]
        log.error("event %s can't be stored, and was put aside: %s", entry.id.decode(), reason)
