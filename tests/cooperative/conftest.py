"""Tests that need a process patched by gevent, like gunicorn's worker. `tests/unit/test_cooperative.py` runs them."""

from __future__ import annotations

import pytest
from gevent import monkey

from tests.unit.conftest import clients_of_masters, connect_cluster, connect_redis, fleet_config, patient_clients, three_masters

__all__ = ["clients_of_masters", "connect_cluster", "connect_redis", "fleet_config", "patient_clients", "three_masters"]


def pytest_ignore_collect() -> bool | None:
    """Skip these tests in an unpatched process."""
    return None if monkey.is_module_patched("socket") else True


@pytest.fixture(autouse=True)
def is_patched() -> None:
    assert monkey.is_module_patched("threading")
