"""A worker with the fault: events are acknowledged when they are read, before they are stored."""

import time
from collections.abc import Sequence

from app import worker
from app.analytics.jobs import Storer
from app.analytics.store import Accepted
from app.analytics.stream import Entry

LATE_SECONDS = 0.3

store = Storer._store


def acknowledge_first(self: Storer, batch: Sequence[tuple[Entry, Accepted]]) -> None:
    if batch:
        self._stream.done([entry for entry, _ in batch])
        time.sleep(LATE_SECONDS)
    store(self, batch)


Storer._store = acknowledge_first  # type: ignore[method-assign]

if __name__ == "__main__":
    worker.main()
