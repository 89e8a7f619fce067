from __future__ import annotations

import pytest
import redis

from app import instance
from app.errors import Unavailable
from app.fleet import store
from app.fleet.service import UNREADY_AFTER_SECONDS, Membership
from app.fleet.store import Registry
from app.sessions.keyring import Keyring, key_id
from tests.unit.conftest import Clock

NEW, OLD, FOREIGN = b"n" * 32, b"o" * 32, b"f" * 32


@pytest.fixture
def registry(redis_client: redis.Redis) -> Registry:
    return Registry(redis_client, settle_seconds=0)


def member(registry: Registry, name: str, *keys: bytes) -> tuple[Membership, Keyring]:
    ring = Keyring("encryption", keys)
    return Membership(registry, instance.identify(name), [ring]), ring


def test_an_instance_is_not_ready_before_its_first_heartbeat(registry: Registry) -> None:
    membership, _ = member(registry, "one", OLD)
    assert membership.obstacle() == "redis: the registry has not been reached yet"
    assert membership.beat()
    assert membership.obstacle() is None


def test_a_rotation_by_one_rolling_restart(registry: Registry) -> None:
    (one, ring_one), (two, ring_two) = (member(registry, name, OLD) for name in ("one", "two"))
    for membership in (one, two):
        membership.beat()
    one, ring_one = member(registry, "one", NEW, OLD)
    one.beat()
    assert ring_one.active == OLD
    two.beat()
    assert ring_two.known_ids == {key_id(NEW), key_id(OLD)}
    two, ring_two = member(registry, "two", NEW, OLD)
    two.beat()
    one.beat()
    assert (ring_one.active, ring_two.active) == (NEW, NEW)
    assert (one.obstacle(), two.obstacle()) == (None, None)


def test_an_instance_that_can_not_read_what_the_fleet_writes_is_not_ready(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, ring = member(registry, "one", OLD)
    one.beat()
    stranger, _ = member(registry, "stranger", FOREIGN)
    for _ in range(3):
        stranger.beat()
        one.beat()
    assert stranger.obstacle() == "holds no encryption key that the fleet writes with"
    assert (one.obstacle(), ring.active) == (None, OLD)
    one.leave()
    stranger.beat()
    assert stranger.obstacle() is not None
    monkeypatch.setattr(store, "ORPHAN_SECONDS", 0)
    stranger.beat()
    assert stranger.obstacle() is None


def test_instances_without_a_common_key_are_not_ready(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ORPHAN_SECONDS", 0)
    (old, _), (one, _), (two, _) = (member(registry, name, key) for name, key in (("old", OLD), ("one", NEW), ("two", FOREIGN)))
    for membership in (old, one, two):
        membership.beat()
    old.leave()
    for membership in (one, two):
        membership.beat()
        assert membership.obstacle() == "holds no encryption key that the fleet writes with"


def break_registry(redis_client: redis.Redis) -> None:
    redis_client.delete("fleet:instances")
    redis_client.set("fleet:instances", "text")


def test_without_an_answer_nothing_changes(registry: Registry, redis_client: redis.Redis) -> None:
    membership, ring = member(registry, "one", NEW, OLD)
    assert membership.beat()
    before = ring.active, ring.known_ids
    break_registry(redis_client)
    assert not membership.beat()
    assert (ring.active, ring.known_ids, membership.obstacle()) == (*before, None)


def test_an_instance_that_nobody_knows_of_is_not_ready(
    registry: Registry, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("app.fleet.service.time", clock)
    membership, _ = member(registry, "one", OLD)
    membership.beat()
    break_registry(redis_client)
    clock.now += UNREADY_AFTER_SECONDS
    membership.beat()
    assert membership.obstacle() is None
    clock.now += 1
    assert membership.obstacle() == "redis: the registry has not been reached for 12 s"
    redis_client.delete("fleet:instances")
    membership.beat()
    assert membership.obstacle() is None


def test_who_asks_for_the_keys_of_the_fleet_is_told_when_there_is_no_answer(
    registry: Registry, redis_client: redis.Redis
) -> None:
    membership, ring = member(registry, "one", OLD)
    member(registry, "two", NEW, OLD)[0].beat()
    membership.refresh(registry)
    assert ring.known_ids == {key_id(NEW), key_id(OLD)}
    break_registry(redis_client)
    with pytest.raises(Unavailable):
        membership.refresh(registry)


def test_an_instance_that_leaves_leaves_nothing_behind(registry: Registry, redis_client: redis.Redis) -> None:
    membership, _ = member(registry, "one", OLD)
    membership.beat()
    membership.leave()
    assert list(redis_client.scan_iter("fleet:instance*")) == []


def test_who_can_not_leave_goes_all_the_same(redis_client: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    membership, _ = member(Registry(redis_client), "one", OLD)
    redis_client.lpush("fleet:instance:one", "text")
    membership.leave()
    assert "could not leave" in caplog.text
