"""Counting what strangers named, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

from app.analysis.failures import Failure

MAX_COUNTED_BYTES = 256 * 1024 * 1024
BYTES_PER_NAME = 150  # what an entry takes besides its name, about


class TooLarge(Failure):
    """Nothing would be exact about this repository with the memory that there is."""

    def __init__(self, text: str) -> None:
        super().__init__(text, permanent=True)


class Counts:
    """How often each name came. Raises TooLarge instead of taking more than MAX_COUNTED_BYTES."""

    def __init__(self, what: str, max_bytes: int = MAX_COUNTED_BYTES) -> None:
        self._what = what
        self._left = max_bytes
        self._counts: dict[bytes, int] = {}

    def add(self, name: bytes) -> None:
        if name in self._counts:
            self._counts[name] += 1
            return
        self._left -= len(name) + BYTES_PER_NAME
        if self._left < 0:
            raise TooLarge(f"This repository has too many {self._what} to be analysed: over {len(self._counts):,}.")
        self._counts[name] = 1

    def values(self) -> list[int]:
        return list(self._counts.values())

    def items(self) -> Iterator[tuple[bytes, int]]:
        return iter(self._counts.items())
