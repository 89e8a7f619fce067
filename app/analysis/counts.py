"""Counts names from a repository, which is not trusted, in bounded memory."""

from collections.abc import Iterator

from app.analysis.failures import AnalysisError

MAX_COUNTER_BYTES = 256 * 1024 * 1024
BYTES_PER_NAME = 150  # approximate size of a dictionary entry without its name


class RepositoryTooLarge(AnalysisError):
    """Exact numbers would take more memory than is allowed."""

    def __init__(self, text: str) -> None:
        super().__init__(text, permanent=True)


class _BoundedNames:
    """A number for each distinct name. `kind` names the named things in the error message, in the plural."""

    def __init__(self, kind: str, max_bytes: int = MAX_COUNTER_BYTES) -> None:
        self._kind = kind
        self._remaining_bytes = max_bytes
        self._numbers: dict[bytes, int] = {}

    def _insert(self, name: bytes, number: int) -> None:
        self._remaining_bytes -= len(name) + BYTES_PER_NAME
        if self._remaining_bytes < 0:
            raise RepositoryTooLarge(f"This repository has too many {self._kind} to be analysed: over {len(self._numbers):,}.")
        self._numbers[name] = number


class NumberedNames(_BoundedNames):
    """Numbers distinct names from 0. `kind` names the named things in the error message, in the plural."""

    def number(self, name: bytes) -> int:
        """Return the number of the name. Raises RepositoryTooLarge if the memory limit is exceeded."""
        found = self._numbers.get(name)
        if found is None:
            found = len(self._numbers)
            self._insert(name, found)
        return found

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the names in the order of their numbers."""
        return iter(self._numbers)


class BoundedCounter(_BoundedNames):
    """Counts how often each name occurs. `kind` names the counted things in the error message, in the plural."""

    def add(self, name: bytes) -> None:
        """Count the name once more. Raises RepositoryTooLarge if the memory limit is exceeded."""
        if name in self._numbers:
            self._numbers[name] += 1
        else:
            self._insert(name, 1)

    def items(self) -> Iterator[tuple[bytes, int]]:
        return iter(self._numbers.items())
