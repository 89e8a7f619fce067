from __future__ import annotations

import pytest

from app.operations.doctor.database import _budget


@pytest.mark.parametrize(("instances", "status"), [(2, "ok"), (3, "warn"), (4, "fail")])
def test_the_budget_of_connections(instances: int, status: str) -> None:
    """20 for ordinary users, 5 of which a worker takes: 3 instances fill it, and a rolling restart has one more."""
    limits = {"max_connections": 23, "superuser_reserved_connections": 3}
    assert _budget(5, instances, limits, {"instance-1": 2, "instance-1-worker": 5, "psql": 1}).status == status
