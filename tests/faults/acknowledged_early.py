"""The fault: a worker acknowledges events when it reads them, before it stores them."""

import time
from collections.abc import Sequence

from app import worker
from app.analytics.event_stream import GROUP, BatchOutcome, EventConsumer
from app.analytics.store import AcceptedEvent

LATE_SECONDS = 0.3

store_all = EventConsumer._store_all


def acknowledge_first(self: EventConsumer, batch: Sequence[tuple[bytes, AcceptedEvent]], outcome: BatchOutcome) -> None:
    if batch:
        ids = [entry_id for entry_id, _ in batch]
        self._client.xack(self._stream, GROUP, *ids)
        self._client.xdel(self._stream, *ids)
        time.sleep(LATE_SECONDS)
    store_all(self, batch, outcome)


EventConsumer._store_all = acknowledge_first  # type: ignore[method-assign]

if __name__ == "__main__":
    worker.main()
