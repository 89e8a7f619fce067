"""The numbers of the workers of one gunicorn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def lowest_free_number(workers: Iterable[Any]) -> int:
    """For a new worker: a worker that ended leaves its number, and so its instance id, to the one that follows it."""
    taken = {worker.number for worker in workers}
    return next(number for number in range(1, len(taken) + 2) if number not in taken)
