"""The file of an export: CSV as RFC 4180 has it, in UTF-8, written event by event and taken away in compressed parts.

It says nothing of the person, not even the pseudonym: a file outlives an erasure, and nobody could be found in it afterwards.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.core.timestamps import iso

COLUMNS = ("id", "occurred_at", "name", "category", "properties")
PART_BYTES = 1_000_000  # before it is compressed
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a cell begins with that a spreadsheet would carry out


@dataclass(frozen=True)
class Event:
    id: str
    occurred_at: datetime
    name: str
    category: str
    properties: dict[str, Any]


class File:
    def __init__(self) -> None:
        self.rows = 0
        self.parts = 0  # that were taken
        self._begin()
        self._write([COLUMNS])

    def add(self, events: Sequence[Event]) -> None:
        self._write(_cells(event) for event in events)
        self.rows += len(events)

    @property
    def has_full_part(self) -> bool:
        return self._size >= PART_BYTES

    def take(self) -> bytes:
        """The part that was written since the last one."""
        part = b"".join([*self._compressed, self._compressor.flush()])
        self.parts += 1
        self._begin()
        return part

    def _begin(self) -> None:
        self._size = 0
        self._compressor = zlib.compressobj()
        self._compressed: list[bytes] = []

    def _write(self, rows: Iterable[Iterable[str]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        raw = text.getvalue().encode("utf-8", "backslashreplace")  # half a surrogate pair stays the escape that JSON has for it
        self._size += len(raw)
        self._compressed.append(self._compressor.compress(raw))


def unpacked(part: bytes) -> bytes:
    return zlib.decompress(part)


def _cells(event: Event) -> list[str]:
    properties = json.dumps(event.properties, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return [_harmless(cell) for cell in (event.id, iso(event.occurred_at), event.name, event.category, properties)]


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell
