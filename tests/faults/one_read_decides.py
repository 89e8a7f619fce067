"""The fault: a session record is removed after a single read that failed."""

from __future__ import annotations

from app import create_app
from app.sessions.records import Record, SessionRecords


def load(self: SessionRecords, key: str) -> Record | None:
    _, record, error = self._read(key, self.store.load)
    if error:
        self._reject(key, error)
    return record


SessionRecords.load = load  # type: ignore[method-assign]
app = create_app()
