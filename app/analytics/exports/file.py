"""The CSV file of an export (RFC 4180, UTF-8 with a byte order mark), written in compressed parts.

It contains no pseudonyms: a file outlives the erasure of a person's events, and must not lead back to anybody.
"""

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
PART_BYTES = 1_000_000  # uncompressed
BYTE_ORDER_MARK = "\ufeff"  # without it, Excel reads the file in the old encoding of its system
# Spreadsheets evaluate cells that start with one of these: https://owasp.org/www-community/attacks/CSV_Injection
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


@dataclass(frozen=True)
class ExportedEvent:
    id: str
    occurred_at: datetime
    name: str
    category: str
    properties: dict[str, Any]


class CsvFile:
    def __init__(self) -> None:
        self.rows = 0
        self.parts = 0  # taken so far
        self._start_part()
        self._write([COLUMNS], BYTE_ORDER_MARK)

    def add(self, events: Sequence[ExportedEvent]) -> None:
        self._write(_cells(event) for event in events)
        self.rows += len(events)

    @property
    def has_full_part(self) -> bool:
        return self._size >= PART_BYTES

    def take_part(self) -> bytes:
        """Return what was written since the last part, compressed."""
        part = b"".join([*self._compressed, self._compressor.flush()])
        self.parts += 1
        self._start_part()
        return part

    def _start_part(self) -> None:
        self._size = 0
        self._compressor = zlib.compressobj()
        self._compressed: list[bytes] = []

    def _write(self, rows: Iterable[Iterable[str]], beginning: str = "") -> None:
        text = io.StringIO(newline="")
        text.write(beginning)
        csv.writer(text).writerows(rows)
        raw = text.getvalue().encode("utf-8", "backslashreplace")  # an unpaired surrogate becomes its JSON escape
        self._size += len(raw)
        self._compressed.append(self._compressor.compress(raw))


def decompress(part: bytes) -> bytes:
    return zlib.decompress(part)


def _cells(event: ExportedEvent) -> list[str]:
    properties = json.dumps(event.properties, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return [_escape_formula(cell) for cell in (event.id, iso(event.occurred_at), event.name, event.category, properties)]


def _escape_formula(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA_PREFIXES) else cell
