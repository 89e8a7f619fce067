"""Counts names from a repository, which is not trusted, in bounded memory."""

from collections.abc import Iterator

from app.analysis.failures import AnalysisError

MAX_COUNTER_BYTES = 256 * 1024 * 1024
BYTES_PER_NAME = 150  # approximate size of a dictionary entry without its name


class RepositoryTooLarge(AnalysisError):
    """Exact numbers would take more memory than is allowed."""

    def __init__(self, text: str) -> None:
        super().__init__(text, permanent=True)


class NumberedNames:
    """Numbers distinct names from 0. `kind` names the named things in the error message, in the plural."""

    def __init__(self, kind: str, max_bytes: int = MAX_COUNTER_BYTES) -> None:
        self._kind = kind
        self._remaining_bytes = max_bytes
        self._numbers: dict[bytes, int] = {}

    def number(self, name: bytes) -> int:
        """Return the number of the name. Raises RepositoryTooLarge if the memory limit is exceeded."""
        found = self._numbers.get(name)
        if found is not None:
            return found
        self._remaining_bytes -= len(name) + BYTES_PER_NAME
        if self._remaining_bytes < 0:
            raise RepositoryTooLarge(f"This repository has too many {self._kind} to be analysed: over {len(self._numbers):,}.")
        self._numbers[name] = len(self._numbers)
        return len(self._numbers) - 1

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the names in the order of their numbers."""
        return iter(self._numbers)


class BoundedCounter:
    """Counts how often each name occurs. `kind` names the counted things in the error message, in the plural."""

    def __init__(self, kind: str, max_bytes: int = MAX_COUNTER_BYTES) -> None:
        self._kind = kind
        self._remaining_bytes = max_bytes
        self._counts: dict[bytes, int] = {}

    def add(self, name: bytes) -> None:
        """Raises RepositoryTooLarge if the memory limit is exceeded."""
        if name in self._counts:
            self._counts[name] += 1
            return
        self._remaining_bytes -= len(name) + BYTES_PER_NAME
        if self._remaining_bytes < 0:
            raise RepositoryTooLarge(f"This repository has too many {self._kind} to be analysed: over {len(self._counts):,}.")
        self._counts[name] = 1

    def values(self) -> list[int]:
        return list(self._counts.values())

    def items(self) -> Iterator[tuple[bytes, int]]:
        return iter(self._counts.items())
