"""The fault: a worker treats an unavailable or read-only database as an error of the event, and dead-letters it."""

from collections.abc import Sequence

from app import worker
from app.analytics.store import AcceptedEvent, EventStore
from app.core.errors import Unavailable

store = EventStore.store


def store_or_refuse(self: EventStore, batch: Sequence[AcceptedEvent], timeout_seconds: float) -> list[AcceptedEvent]:
    try:
        return store(self, batch, timeout_seconds)
    except Unavailable as error:
        raise ValueError("refused") from error


EventStore.store = store_or_refuse  # type: ignore[method-assign]

if __name__ == "__main__":
    worker.main()
