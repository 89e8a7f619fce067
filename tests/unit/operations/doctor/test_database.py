from __future__ import annotations

import pytest

from app.operations.doctor.database import _connection_budget


@pytest.mark.parametrize(("instances", "status"), [(2, "ok"), (3, "warn"), (4, "fail")])
def test_connection_budget(instances: int, status: str) -> None:
    """The server allows 20 connections and a worker uses 5: 3 instances fill it, and a rolling restart needs one more."""
    limits = {"max_connections": 23, "superuser_reserved_connections": 3}
    assert _connection_budget(5, instances, limits, {"instance-1": 2, "instance-1-worker": 5, "psql": 1}).status == status
