from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from app.health import redis_writes
from app.health.redis_writes import OUT_OF_MEMORY, READ_ONLY, TOO_FEW_REPLICAS, TOO_MANY_CLIENTS, RedisWrites

MAX_CLIENTS = 10_000  # Redis' default


@pytest.fixture
def writes(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisWrites]:
    monkeypatch.setattr(redis_writes, "INTERVAL_SECONDS", -1)
    yield RedisWrites(redis_client)
    redis_client.replicaof("NO", "ONE")
    redis_client.config_set("maxmemory", 0)
    redis_client.config_set("min-replicas-to-write", 0)
    redis_client.config_set("maxclients", MAX_CLIENTS)


def test_no_warning_while_writes_are_accepted(writes: RedisWrites) -> None:
    assert writes.find_warning() is None


def test_replica_is_a_warning(writes: RedisWrites, redis_client: redis.Redis) -> None:
    redis_client.replicaof("127.0.0.1", "1")
    assert writes.find_warning() == READ_ONLY


def test_full_memory_is_a_warning(writes: RedisWrites, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxmemory", 1)
    assert writes.find_warning() == OUT_OF_MEMORY
    redis_client.config_set("maxmemory", 10**12)
    assert writes.find_warning() is None


def test_missing_replicas_are_a_warning(writes: RedisWrites, redis_client: redis.Redis) -> None:
    redis_client.config_set("min-replicas-to-write", 1)
    with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
        redis_client.set("key", "value")
    assert writes.find_warning() == TOO_FEW_REPLICAS


def test_few_connections_left_are_a_warning(writes: RedisWrites, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxclients", int(redis_client.info("clients")["connected_clients"]))
    assert writes.find_warning() == TOO_MANY_CLIENTS
