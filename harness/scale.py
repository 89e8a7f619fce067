"""How much a test that counts does: little in `make test`, everything in `make test-full`."""

import os

import pytest

VARIABLE = "REPORADAR_TEST_FULL"
FULL = os.environ.get(VARIABLE) == "1"
ENVIRONMENT = {VARIABLE: "1" if FULL else "0"}  # for the programs of a test, which inherit nothing

full_only = pytest.mark.skipif(not FULL, reason="takes long: make test-full runs it")


def count(small: int, full: int) -> int:
    """Return the number for this run: `small` in `make test`, `full` in `make test-full`."""
    return full if FULL else small
