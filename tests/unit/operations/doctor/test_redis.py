from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.core import config
from app.operations.doctor.findings import Finding
from app.operations.doctor.redis import _clients, _eviction, _memory, _persistence, _role, _version, address
from harness.servers import fleet_environment
from tests.unit.conftest import UNUSED_DATABASE_URL


def statuses(findings: Iterator[Finding]) -> list[str]:
    return [finding.status for finding in findings]


def test_unsafe_redis_settings_are_found() -> None:
    assert _version({"redis_version": "7.0.15"}).status == "ok"
    assert _version({"redis_version": "6.2.1"}).status == "warn"
    assert statuses(_role({"role": "master", "cluster_enabled": 0})) == []
    assert statuses(_role({"role": "slave", "cluster_enabled": 1})) == ["fail", "fail"]
    assert _eviction({"maxmemory_policy": "volatile-lru"}).status == "fail"
    assert _eviction({"maxmemory_policy": "noeviction", "evicted_keys": 3}).status == "warn"
    assert statuses(_persistence({"aof_enabled": 1})) == ["ok"]
    assert statuses(_persistence({"aof_enabled": 1, "aof_last_write_status": "err"})) == ["fail"]
    assert statuses(_persistence({"aof_enabled": 0, "rdb_last_bgsave_status": "err"})) == ["warn", "warn"]
    assert [_memory({"used_memory": used, "maxmemory": 100}).status for used in (80, 81, 96)] == ["ok", "warn", "fail"]
    assert _memory({"used_memory": 10**9, "maxmemory": 0}).status == "ok"


@pytest.mark.parametrize(("now", "instances", "status"), [(10, 3, "ok"), (10, 11, "warn"), (810, 1, "fail")])
def test_connections_of_redis_are_graded(now: int, instances: int, status: str) -> None:
    assert _clients({"connected_clients": now, "maxclients": 1000}, instances).status == status


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:se-cret@redis.example/1", "redis.example:6379/1"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
        ("redis+cluster://ada:se/cr#et@one.example:7000,two.example:7001", "one.example:7000,two.example:7001"),
        ("redis+sentinel://:se/cr[et@one.example:26379/primary", "one.example:26379/primary/0"),
    ],
)
def test_address_never_contains_a_part_of_the_password(url: str, expected: str) -> None:
    assert address(config.load(fleet_environment(url, UNUSED_DATABASE_URL))) == expected
