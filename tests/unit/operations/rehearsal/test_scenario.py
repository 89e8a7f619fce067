"""The actions of a rehearsal."""

from __future__ import annotations

from typing import Any, cast

from app.core import config
from app.operations.rehearsal.plan import Plan
from app.operations.rehearsal.scenario import Scenario
from app.redis.client import connect
from harness.servers import fleet_environment
from tests.unit.conftest import UNUSED_DATABASE_URL


def test_redis_cluster_is_not_restarted() -> None:
    client = connect(config.load(fleet_environment("redis+cluster://127.0.0.1:1", UNUSED_DATABASE_URL)), "test")
    plan = Plan("http://127.0.0.1:8080", {}, "a command", as_json=False)
    unused = cast(Any, None)
    scenario = Scenario(plan, unused, unused, unused, unused, client, unused, unused)
    assert "Redis Cluster" in (scenario._reason_against_redis_restart() or "")
