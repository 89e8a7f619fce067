"""Tests of what needs a patched process, as gunicorn's worker is one; `tests/unit/test_cooperative.py` runs them in such."""

from __future__ import annotations

import pytest
from gevent import monkey

from tests.unit.conftest import connect_redis, fleet_config

__all__ = ["connect_redis", "fleet_config"]


def pytest_ignore_collect() -> bool | None:
    """In any other process they are left out."""
    return None if monkey.is_module_patched("socket") else True


@pytest.fixture(autouse=True)
def is_patched() -> None:
    assert monkey.is_module_patched("threading")
