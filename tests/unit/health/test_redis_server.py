from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from app.health import redis_server
from app.health.redis_server import (
    APPENDONLY_OFF,
    OUT_OF_MEMORY,
    READ_ONLY,
    TOO_FEW_REPLICAS,
    TOO_MANY_CLIENTS,
    RedisServerCheck,
)

MAX_CLIENTS = 10_000  # Redis' default


@pytest.fixture
def server(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServerCheck]:
    monkeypatch.setattr(redis_server, "INTERVAL_SECONDS", -1)
    yield RedisServerCheck(redis_client)
    redis_client.replicaof("NO", "ONE")
    redis_client.config_set("maxmemory", 0)
    redis_client.config_set("min-replicas-to-write", 0)
    redis_client.config_set("maxclients", MAX_CLIENTS)
    redis_client.config_set("appendonly", "yes")


def test_no_warning_while_writes_are_accepted(server: RedisServerCheck) -> None:
    assert server.find_warning() is None


def test_replica_is_a_warning(server: RedisServerCheck, redis_client: redis.Redis) -> None:
    redis_client.replicaof("127.0.0.1", "1")
    assert server.find_warning() == READ_ONLY


def test_full_memory_is_a_warning(server: RedisServerCheck, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxmemory", 1)
    assert server.find_warning() == OUT_OF_MEMORY
    redis_client.config_set("maxmemory", 10**12)
    assert server.find_warning() is None


def test_missing_replicas_are_a_warning(server: RedisServerCheck, redis_client: redis.Redis) -> None:
    redis_client.config_set("min-replicas-to-write", 1)
    with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
        redis_client.set("key", "value")
    assert server.find_warning() == TOO_FEW_REPLICAS


def test_few_connections_left_are_a_warning(server: RedisServerCheck, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxclients", int(redis_client.info("clients")["connected_clients"]))
    assert server.find_warning() == TOO_MANY_CLIENTS


def test_missing_append_only_file_is_a_warning(server: RedisServerCheck, redis_client: redis.Redis) -> None:
    redis_client.config_set("appendonly", "no")
    assert server.find_warning() == APPENDONLY_OFF


def test_refused_writes_are_more_urgent_than_a_missing_file(server: RedisServerCheck, redis_client: redis.Redis) -> None:
    redis_client.config_set("appendonly", "no")
    redis_client.config_set("maxmemory", 1)
    assert server.find_warning() == OUT_OF_MEMORY


def test_checks_have_an_interval(server: RedisServerCheck, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server, "INTERVAL_SECONDS", 60)
    assert server.find_warning() is None
    redis_client.config_set("appendonly", "no")
    assert server.find_warning() is None
    monkeypatch.setattr(redis_server, "INTERVAL_SECONDS", -1)
    assert server.find_warning() is not None
