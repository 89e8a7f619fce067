from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from app.health import redis_durability
from app.health.redis_durability import APPENDONLY_OFF, RedisDurability


@pytest.fixture
def durability(redis_client: redis.Redis) -> Iterator[RedisDurability]:
    yield RedisDurability(redis_client)
    redis_client.config_set("appendonly", "yes")


def test_missing_append_only_file_is_a_warning(durability: RedisDurability, redis_client: redis.Redis) -> None:
    redis_client.config_set("appendonly", "no")
    assert durability.find_warning() == APPENDONLY_OFF


def test_checks_have_an_interval(durability: RedisDurability, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    assert durability.find_warning() is None
    redis_client.config_set("appendonly", "no")
    assert durability.find_warning() is None
    monkeypatch.setattr(redis_durability, "INTERVAL_SECONDS", -1)
    assert durability.find_warning() is not None
