"""The races of sessions and the rotation of both secrets on a Redis Cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.fleet import Fleet
from harness.redis_cluster import RedisCluster
from harness.scale import full_only
from harness.servers import PostgresServer
from tests.functional.test_rotation import rotate
from tests.functional.test_session_races import CHECKS, PAIRS, Race, count

pytestmark = full_only


@pytest.fixture(autouse=True)
def _empty_cluster(redis_cluster: RedisCluster) -> None:
    redis_cluster.flush()


@CHECKS
def test_no_write_is_lost_and_no_session_comes_back(
    redis_cluster: RedisCluster, postgres_server: PostgresServer, check: Callable[[Race, int], bool]
) -> None:
    with Fleet(postgres_server, redis_url=redis_cluster.url, application="tests.faults.held_requests:app") as fleet:
        assert count(check, fleet.instances, redis_cluster.client, PAIRS) == 0


def test_rolling_restart_rotates_both_secrets_without_signing_anyone_out(redis_cluster: RedisCluster, database_url: str) -> None:
    rotate(redis_cluster.url, database_url)
