from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import pytest
import redis

from app.core import instance
from app.core.errors import NotFound, Unavailable
from app.core.keyring import Keyring, key_id
from app.fleet import store
from app.fleet.consistency import ConfigMismatch
from app.fleet.service import UNREADY_AFTER_SECONDS, FleetMembership, FleetOfOne, SharedFleet
from app.fleet.store import FleetTotals, Registry
from app.fleet.vitals import Vitals
from app.fleet.worker_store import WorkerRegistry
from app.server.lifecycle import READY, Lifecycle
from tests.unit.conftest import Clock, count_of

NEW, OLD, FOREIGN = b"n" * 32, b"o" * 32, b"f" * 32
MISSING_KEY = "this instance has no encryption key that the fleet writes with: compare SESSION_ENCRYPTION_KEY"


@pytest.fixture
def registry(redis_client: redis.Redis) -> Registry:
    return Registry(redis_client, settle_seconds=0)


class StubConsistency:
    """Finds no mismatch unless `fault` is set."""

    pool_size = 5

    def __init__(self) -> None:
        self.fault: str | None = None

    def on_heartbeat(self, totals: FleetTotals, duplicate: Any) -> None:
        pass

    def not_ready_reason(self) -> str | None:
        return self.fault

    def mismatches(self) -> list[ConfigMismatch]:
        return [ConfigMismatch("redis", ["one"], self.fault)] if self.fault else []

    def instances_on_other_redis(self, registered: Collection[str]) -> list[ConfigMismatch]:
        return [ConfigMismatch("redis", ["outsider"], "uses another Redis")]


MEASURED = {
    "cpu_percent": 1.0,
    "memory_percent": 2.0,
    "loop_delay_ms": 3.0,
    "p95_ms": None,
    "redis_latency_ms": 0.1,
    "database_latency_ms": 0.2,
    "connections": 7,
}


def vitals_of(me: instance.Instance, lifecycle: Lifecycle) -> Vitals:
    vitals = Vitals(me, lifecycle, "fingerprint", lambda: MEASURED)
    vitals.count_sockets = lambda: 4
    return vitals


def member(registry: Registry, name: str, *keys: bytes) -> tuple[FleetMembership, Keyring]:
    membership, ring, _, _ = member_with_parts(registry, name, *keys)
    return membership, ring


def member_with_parts(registry: Registry, name: str, *keys: bytes) -> tuple[FleetMembership, Keyring, Lifecycle, StubConsistency]:
    ring, lifecycle, consistency = Keyring("encryption", keys), Lifecycle(), StubConsistency()
    me = instance.identify(name)
    vitals = vitals_of(me, lifecycle)
    return FleetMembership(registry, me, [ring], lifecycle, cast(Any, consistency), vitals), ring, lifecycle, consistency


def test_totals_are_known_while_this_instance_is_ready_and_its_heartbeats_are_answered(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    membership, _, lifecycle, _ = member_with_parts(registry, "one", OLD)
    membership.beat()
    assert membership.totals() is None
    lifecycle.phase = READY
    membership.beat()
    totals = membership.totals()
    assert totals
    assert (totals.ready, totals.mean_sockets, totals.is_changing) == (1, 4.0, False)
    monkeypatch.setattr("app.fleet.service.OUTDATED_AFTER_SECONDS", 0.0)
    assert membership.totals() is None


def test_instance_is_not_ready_before_its_first_heartbeat(registry: Registry) -> None:
    membership, _ = member(registry, "one", OLD)
    assert (
        membership.not_ready_reason()
        == "this instance has not reached the registry in Redis yet: check that Redis accepts writes"
    )
    assert membership.beat()
    assert membership.not_ready_reason() is None


def test_keys_are_rotated_by_one_rolling_restart(registry: Registry) -> None:
    (one, ring_one), (two, ring_two) = (member(registry, name, OLD) for name in ("one", "two"))
    for membership in (one, two):
        membership.beat()
    one.leave()
    one, ring_one = member(registry, "one", NEW, OLD)
    one.beat()
    assert ring_one.active == OLD
    two.beat()
    assert ring_two.known_ids == {key_id(NEW), key_id(OLD)}
    two.leave()
    two, ring_two = member(registry, "two", NEW, OLD)
    two.beat()
    one.beat()
    assert (ring_one.active, ring_two.active) == (NEW, NEW)
    assert (one.not_ready_reason(), two.not_ready_reason()) == (None, None)


def test_instance_without_the_active_key_is_not_ready(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    one, ring = member(registry, "one", OLD)
    one.beat()
    outsider, _ = member(registry, "outsider", FOREIGN)
    for _ in range(3):
        outsider.beat()
        one.beat()
    assert outsider.not_ready_reason() == MISSING_KEY
    assert (one.not_ready_reason(), ring.active) == (None, OLD)
    one.leave()
    outsider.beat()
    assert outsider.not_ready_reason() is not None
    monkeypatch.setattr(store, "ORPHAN_SECONDS", 0)
    outsider.beat()
    assert outsider.not_ready_reason() is None


def test_instances_without_a_common_key_are_not_ready(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ORPHAN_SECONDS", 0)
    (old, _), (one, _), (two, _) = (member(registry, name, key) for name, key in (("old", OLD), ("one", NEW), ("two", FOREIGN)))
    for membership in (old, one, two):
        membership.beat()
    old.leave()
    for membership in (one, two):
        membership.beat()
        assert membership.not_ready_reason() == MISSING_KEY


def break_registry(redis_client: redis.Redis) -> None:
    redis_client.delete("fleet:instances")
    redis_client.set("fleet:instances", "text")


def test_failed_heartbeat_changes_nothing(registry: Registry, redis_client: redis.Redis) -> None:
    membership, ring = member(registry, "one", NEW, OLD)
    assert membership.beat()
    before = ring.active, ring.known_ids
    break_registry(redis_client)
    assert not membership.beat()
    assert (ring.active, ring.known_ids, membership.not_ready_reason()) == (*before, None)


def test_instance_that_can_not_renew_its_entry_is_not_ready(
    registry: Registry, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("app.fleet.service.time", clock)
    membership, _ = member(registry, "one", OLD)
    membership.beat()
    break_registry(redis_client)
    clock.now += UNREADY_AFTER_SECONDS
    membership.beat()
    assert membership.not_ready_reason() is None
    clock.now += 1
    assert membership.not_ready_reason() == (
        "this instance has not reached the registry in Redis for 12 s: check that Redis accepts writes"
    )
    redis_client.delete("fleet:instances")
    membership.beat()
    assert membership.not_ready_reason() is None


def test_refresh_raises_when_the_registry_fails(registry: Registry, redis_client: redis.Redis) -> None:
    membership, ring = member(registry, "one", OLD)
    member(registry, "two", NEW, OLD)[0].beat()
    membership.refresh(registry)
    assert ring.known_ids == {key_id(NEW), key_id(OLD)}
    break_registry(redis_client)
    with pytest.raises(Unavailable):
        membership.refresh(registry)


def test_leave_removes_the_entry(registry: Registry, redis_client: redis.Redis) -> None:
    membership, _ = member(registry, "one", OLD)
    membership.beat()
    membership.leave()
    assert list(redis_client.scan_iter("fleet:instance*")) == []


def test_after_a_failed_leave_no_heartbeat_is_sent(redis_client: redis.Redis) -> None:
    membership, _ = member(Registry(redis_client), "one", OLD)
    break_registry(redis_client)
    with pytest.raises(Unavailable):
        membership.leave()
    redis_client.delete("fleet:instances")
    assert membership.beat()
    assert not redis_client.exists("fleet:instances")


def test_leave_records_a_clean_stop(registry: Registry, redis_client: redis.Redis) -> None:
    membership, _, lifecycle, _ = member_with_parts(registry, "one", OLD)
    membership.beat()
    with lifecycle.drain().phase("delay"):
        pass
    membership.leave()
    (stop,) = SharedFleet(registry, WorkerRegistry(redis_client), cast(Any, StubConsistency())).overview()["stops"]
    assert (stop["instance_id"], stop["kind"], [phase["name"] for phase in stop["phases"]]) == ("one", "clean", ["delay"])
    assert stop["at"].endswith("Z")


def test_part_that_could_not_be_closed_is_in_the_recorded_stop(registry: Registry, redis_client: redis.Redis) -> None:
    membership, _, lifecycle, _ = member_with_parts(registry, "one", OLD)

    def fail() -> None:
        raise RuntimeError("connection lost")

    lifecycle.add("database", close=fail)
    lifecycle.add("registry", after_report=membership.leave)
    membership.beat()
    assert not lifecycle.stop(lifecycle.drain(), 1)
    (stop,) = SharedFleet(registry, WorkerRegistry(redis_client), cast(Any, StubConsistency())).overview()["stops"]
    assert (stop["instance_id"], stop["kind"], [phase["name"] for phase in stop["phases"]]) == ("one", "forced", ["close"])
    assert stop["summary"].endswith("(could not close database)")


def test_mismatch_blocks_a_starting_instance_but_not_a_ready_one(registry: Registry) -> None:
    membership, _, lifecycle, consistency = member_with_parts(registry, "one", OLD)
    lifecycle.add("registry", check=membership.not_ready_reason)
    membership.beat()
    consistency.fault = "uses another redis than two"
    assert lifecycle.check_readiness() == ["uses another redis than two"]
    consistency.fault = None
    assert lifecycle.check_readiness() == []
    consistency.fault = "uses another redis than two"
    assert lifecycle.check_readiness() == []


def test_overview_lists_instances_and_mismatches(registry: Registry, redis_client: redis.Redis) -> None:
    (one, _, _, consistency), (two, _) = member_with_parts(registry, "one", OLD), member(registry, "two", OLD)
    consistency.fault = "uses another redis than two"
    for membership in (one, two):
        membership.beat()
    overview = SharedFleet(registry, WorkerRegistry(redis_client), cast(Any, consistency)).overview()
    first, second = overview["instances"]
    assert (first["instance_id"], second["instance_id"]) == ("one", "two")
    assert first["connections"] == 7
    assert first["sockets"] == 4
    assert first["status"] == "starting"
    assert first["config_fingerprint"] == "fingerprint"
    assert [(found["kind"], found["instance_ids"]) for found in overview["disagreements"]] == [
        ("redis", ["one"]),
        ("redis", ["outsider"]),
    ]
    assert (overview["advice"], overview["stops"]) == ([], [])


def test_instance_is_drained_and_drain_is_ended(registry: Registry, redis_client: redis.Redis) -> None:
    membership, _, lifecycle, consistency = member_with_parts(registry, "one", OLD)
    membership.beat()
    assert lifecycle.check_readiness() == []
    fleet = SharedFleet(registry, WorkerRegistry(redis_client), cast(Any, consistency))
    for drained in (True, False):
        fleet.set_drained("one", drained)
        membership.beat()
        assert lifecycle.is_draining is drained
    with pytest.raises(NotFound):
        fleet.set_drained("unknown", True)


def test_embedded_instance_is_a_fleet_of_one() -> None:
    lifecycle, me = Lifecycle(), instance.identify("alone")
    assert lifecycle.check_readiness() == []
    fleet = FleetOfOne(me, lifecycle, vitals_of(me, lifecycle))
    assert [about["instance_id"] for about in fleet.overview()["instances"]] == ["alone"]
    fleet.set_drained("alone", True)
    assert fleet.overview()["instances"][0]["status"] == "draining"
    with pytest.raises(NotFound):
        fleet.set_drained("unknown", True)


def test_stops_of_other_instances_are_counted(registry: Registry) -> None:
    def counted() -> float:
        return count_of("reporadar_stops_total", kind="clean")

    one, _ = member(registry, "one", OLD)
    before = counted()
    for expected in (0, 1, 2):
        one.beat()
        assert counted() == before + expected
        other, _, lifecycle, _ = member_with_parts(registry, "other", OLD)
        other.beat()
        lifecycle.drain()
        other.leave()
