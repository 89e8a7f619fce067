"""How much a test that counts does: little in `make test`, everything in `make test-full`."""

import os

FULL = os.environ.get("REPORADAR_TEST_FULL") == "1"


def count(small: int, full: int) -> int:
    """Return the number for this run: `small` in `make test`, `full` in `make test-full`."""
    return full if FULL else small
