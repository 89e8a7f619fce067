from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
import redis

from app.core.errors import Unavailable
from app.fleet import store
from app.fleet.store import Registry, RingState
from harness.servers import wait_until

RING = "encryption"
LONG = 3600.0  # so that no key settles during a test
AT_ONCE = 0.0


def entry(
    instance_id: str, *keys: str, nonce: str = "1", writes_with: str | None = None, status: str = "ready"
) -> dict[str, Any]:
    """The second start of an instance has the nonce `one-2`."""
    return {
        "instance_id": instance_id,
        "nonce": f"{instance_id}-{nonce}",
        "hostname": "host",
        "pid": 17,
        "status": status,
        "is_stopping": status == "draining",
        "pool": 5,
        "keys": {RING: list(keys)},
        "writes_with": {RING: writes_with} if writes_with else {},
    }


class Fleet:
    """What instances are told, whose keys have to settle for so long."""

    def __init__(self, client: redis.Redis, settle_seconds: float) -> None:
        self._client = client
        self._registry = Registry(client, settle_seconds)

    def beat(self, instance_id: str, *keys: str, nonce: str = "1", writes_with: str | None = None) -> RingState:
        """With another nonce it was restarted, and left before."""
        for other in map(str, range(10)):
            if other != nonce and self._client.exists(f"fleet:instance:{instance_id}-{other}"):
                self.remove(instance_id, other)
        return self._registry.heartbeat(entry(instance_id, *keys, nonce=nonce, writes_with=writes_with)).rings[RING]

    def active(self, instance_id: str, *keys: str, nonce: str = "1", writes_with: str | None = None) -> str | None:
        return self.beat(instance_id, *keys, nonce=nonce, writes_with=writes_with).active

    def remove(self, instance_id: str, nonce: str = "1") -> None:
        self._registry.leave(f"{instance_id}-{nonce}", None)


@pytest.fixture
def patient(redis_client: redis.Redis) -> Fleet:
    """As it is before a new key has settled."""
    return Fleet(redis_client, LONG)


@pytest.fixture
def settled(redis_client: redis.Redis) -> Fleet:
    """As it is after that: the same registry."""
    return Fleet(redis_client, AT_ONCE)


@pytest.fixture
def orphans_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is when an instance has waited for so long for one that holds the active key."""
    monkeypatch.setattr(store, "ORPHAN_SECONDS", 0)


def test_a_new_fleet_begins_with_its_oldest_key(patient: Fleet, settled: Fleet) -> None:
    for _ in range(2):
        assert patient.beat("one", "new", "old") == RingState("old", frozenset({"new", "old"}))
    assert settled.active("one", "new", "old") == "new"
    assert patient.active("two", "new", "old") == "new"


def test_each_ring_is_decided_for_itself(redis_client: redis.Redis) -> None:
    registry = Registry(redis_client, LONG)
    registry.heartbeat({**entry("one"), "keys": {"encryption": ["e1"], "signing": ["s1"]}})
    answer = registry.heartbeat({**entry("two"), "keys": {"encryption": ["e2", "e1"], "signing": ["s1"]}})
    assert answer.rings == {
        "encryption": RingState("e1", frozenset({"e1", "e2"})),
        "signing": RingState("s1", frozenset({"s1"})),
    }


def test_an_instance_that_lacks_a_new_key_holds_it_back(settled: Fleet) -> None:
    settled.beat("one", "old")
    settled.beat("two", "old")
    for _ in range(3):
        assert settled.active("one", "new", "old") == "old"
        assert settled.active("two", "old") == "old"
    settled.beat("two", "new", "old")
    assert settled.active("one", "new", "old") == "new"


def test_an_instance_that_left_does_not_hold_a_key_back(settled: Fleet) -> None:
    settled.beat("one", "old")
    settled.beat("two", "old")
    settled.remove("two")
    assert settled.active("one", "new", "old") == "new"


def test_a_key_that_all_hold_waits_until_it_has_settled(patient: Fleet, settled: Fleet) -> None:
    patient.beat("one", "old")
    for name in ("one", "two", "one", "two"):
        assert patient.active(name, "new", "old", nonce="2") == "old"
    assert settled.active("one", "new", "old", nonce="2") == "new"
    assert patient.active("two", "new", "old", nonce="2") == "new"


def test_a_key_has_settled_when_the_last_instance_that_got_it_has_held_it_so_long(redis_client: redis.Redis) -> None:
    fleet = Fleet(redis_client, 0.3)
    fleet.beat("one", "old")
    fleet.beat("two", "old")
    fleet.beat("one", "new", "old", nonce="2")
    started = time.monotonic()
    fleet.beat("two", "new", "old", nonce="2")
    wait_until(lambda: fleet.active("one", "new", "old", nonce="2") == "new", what="the new key to become active")
    assert time.monotonic() - started >= 0.29


def test_a_restart_begins_the_time_to_settle_anew(redis_client: redis.Redis, patient: Fleet) -> None:
    def since(nonce: str = "one-1") -> int:
        return int(cast(bytes, redis_client.hget(f"fleet:instance:{nonce}", "since")))

    patient.beat("one", "new", nonce="1")
    first = since()
    wait_until(lambda: redis_client.time() > (first // 1000, first % 1000 * 1000 + 999), what="the next millisecond")
    patient.beat("one", "new", nonce="1")
    assert since() == first
    patient.beat("one", "new", nonce="2")
    assert since("one-2") > first


def test_a_roll_back_before_the_switch_harms_nobody(patient: Fleet, settled: Fleet) -> None:
    patient.beat("one", "old")
    patient.beat("two", "old")
    patient.beat("one", "new", "old", nonce="2")
    assert settled.active("one", "old", nonce="3") == "old"
    assert settled.beat("two", "old") == RingState("old", frozenset({"old"}))


def test_the_fleet_does_not_flip_back_for_an_instance_with_only_the_old_key(settled: Fleet) -> None:
    settled.beat("one", "old")
    assert settled.active("one", "new", "old") == "new"
    for _ in range(3):
        assert settled.beat("late", "old") == RingState("new", frozenset({"new", "old"}))
        assert settled.active("one", "new", "old") == "new"


def test_an_old_key_is_dropped_when_nobody_holds_it(settled: Fleet) -> None:
    settled.beat("one", "old")
    settled.beat("one", "new", "old")
    assert settled.beat("one", "new", nonce="2") == RingState("new", frozenset({"new"}))


def test_a_key_is_only_followed_by_one_that_all_put_before_it(settled: Fleet) -> None:
    settled.beat("one", "a")
    settled.beat("two", "a")
    settled.beat("one", "b", "a", nonce="2")
    assert settled.active("two", "a", "b", nonce="2") == "a"
    assert settled.active("one", "b", "a", nonce="2") == "a"
    settled.beat("two", "b", "a", nonce="3")
    assert settled.active("one", "b", "a", nonce="2") == "b"


def test_an_active_key_that_nobody_holds_any_more_gives_way(patient: Fleet, orphans_give_way: None) -> None:
    patient.beat("one", "lost")
    assert patient.beat("one", "new", nonce="2") == RingState("new", frozenset({"new"}))


def test_the_newest_key_that_all_hold_is_chosen(settled: Fleet) -> None:
    settled.beat("one", "old")
    settled.beat("two", "newer", "old")
    assert settled.active("one", "newest", "newer", "old", nonce="2") == "newer"


def test_an_entry_expires(redis_client: redis.Redis, settled: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    settled.beat("one", "old")
    assert 0 < redis_client.pttl("fleet:instance:one-1") <= store.ENTRY_TTL_SECONDS * 1000 == 10_000
    monkeypatch.setattr(store, "ENTRY_TTL_SECONDS", 1)
    settled.beat("silent", "silent")
    assert "silent" in settled.beat("one", "old").known
    wait_until(lambda: "silent" not in settled.beat("one", "old").known, what="the entry to expire")
    wait_until(
        lambda: settled.beat("one", "old") and redis_client.hkeys("fleet:instances") == [b"one-1"], what="its crash_record"
    )


def test_an_entry_that_expired_does_not_hold_a_key_back(
    settled: Fleet, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled.beat("one", "old")
    settled.beat("silent", "old")
    assert settled.active("one", "new", "old") == "old"
    redis_client.delete("fleet:instance:silent-1")  # as at its expiry
    assert settled.active("one", "new", "old") == "new"


def test_an_instance_leaves_at_once(settled: Fleet, redis_client: redis.Redis) -> None:
    settled.beat("one", "one")
    settled.beat("two", "two")
    settled.remove("two")
    assert settled.beat("one", "one").known == {"one"}
    assert redis_client.exists("fleet:instance:two-1") == 0
    settled.remove("two")


def test_a_heartbeat_keeps_what_the_entry_says(settled: Fleet, redis_client: redis.Redis) -> None:
    settled.beat("one", "new", "old", nonce="7")
    kept = json.loads(cast(bytes, redis_client.hget("fleet:instance:one-7", "entry")))
    assert entry("one", "new", "old", nonce="7") == kept


def test_a_registry_that_does_not_answer_is_unavailable(redis_client: redis.Redis, settled: Fleet) -> None:
    redis_client.set("fleet:instances", "text")
    with pytest.raises(Unavailable):
        settled.beat("one", "old")


Outage = Callable[[], None]


@pytest.fixture
def outage(redis_client: redis.Redis) -> Outage:
    """Redis was away for longer than entries live; what has no time to live is still there."""

    def end() -> None:
        redis_client.delete(*redis_client.scan_iter("fleet:instance:*"))

    return end


def test_after_an_outage_the_fleet_writes_with_the_key_that_it_had(patient: Fleet, outage: Outage) -> None:
    patient.beat("one", "old")
    patient.beat("one", "new", "old")
    outage()
    assert patient.active("one", "new", "old") == "old"


def test_after_an_outage_a_straggler_does_not_take_the_fleet_with_it(patient: Fleet, outage: Outage) -> None:
    for name in ("one", "two"):
        patient.beat(name, "new")
    assert patient.active("straggler", "old") == "new"  # and so it is not ready
    outage()
    patient.beat("straggler", "old")
    assert patient.active("one", "new") == "new"


def test_where_redis_has_lost_everything_a_ready_instance_tells_what_was_written_with(
    patient: Fleet, redis_client: redis.Redis
) -> None:
    redis_client.flushall()
    assert patient.active("one", "new", "old", writes_with="new") == "new"
    assert patient.active("two", "new", "old") == "new"


def test_where_redis_has_lost_everything_a_straggler_does_not_decide(patient: Fleet, redis_client: redis.Redis) -> None:
    patient.beat("one", "new")
    assert patient.active("straggler", "old") == "new"  # and so it is not ready
    redis_client.flushall()
    patient.beat("straggler", "old")
    assert patient.active("one", "new", writes_with="new") == "new"


def test_a_key_that_nobody_holds_is_waited_for(
    patient: Fleet, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "ORPHAN_SECONDS", 1)
    patient.beat("one", "lost")
    assert patient.active("one", "new", nonce="2") == "lost"
    wait_until(lambda: patient.active("one", "new", nonce="2") == "new", what="the lost key to be given up")


def test_without_a_common_key_nothing_is_decided(patient: Fleet, orphans_give_way: None) -> None:
    patient.beat("one", "lost")
    patient.beat("two", "a")
    patient.beat("three", "b")
    patient.remove("one")
    assert patient.beat("two", "a") == patient.beat("three", "b")
    assert patient.active("two", "a") is None
    assert patient.active("two", "b", "a", nonce="2") == "b"


# Who is who, and how they ended.


@pytest.fixture
def registry(redis_client: redis.Redis) -> Registry:
    return Registry(redis_client)


def kinds(registry: Registry) -> list[tuple[str, str]]:
    return [(stop["nonce"], stop["kind"]) for stop in registry.stops()]


def test_others_are_told_of_each_other(registry: Registry) -> None:
    assert registry.heartbeat(entry("one", "key")).peers == []
    answer = registry.heartbeat(entry("two", "key", status="starting"))
    assert (answer.peers, answer.duplicate, answer.drained) == ([store.Peer("one-1", "one", "ready", 5)], None, False)
    assert registry.heartbeat(entry("one", "key")).peers == [store.Peer("two-1", "two", "starting", 5)]


def test_of_two_that_have_one_name_the_younger_is_told_of_the_elder(registry: Registry) -> None:
    registry.heartbeat(entry("one", "key", nonce="a"))
    for _ in range(3):
        assert registry.heartbeat(entry("one", "key", nonce="z")).duplicate == {"hostname": "host", "pid": 17}
        assert registry.heartbeat(entry("one", "key", nonce="a")).duplicate is None
    registry.leave("one-a", None)
    assert registry.heartbeat(entry("one", "key", nonce="z")).duplicate is None
    assert registry.stops() == []


def test_a_dead_predecessor_makes_way_and_has_crashed(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SILENT_SECONDS", 0.2)
    registry.heartbeat(entry("one", "key", nonce="1"))
    assert registry.heartbeat(entry("one", "key", nonce="2")).duplicate is not None
    wait_until(lambda: registry.heartbeat(entry("one", "key", nonce="2")).duplicate is None, what="the predecessor to make way")
    assert kinds(registry) == [("one-1", "crashed")]


def test_how_instances_ended(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ENTRY_TTL_SECONDS", 0.2)
    for name in ("killed", "stopped"):
        registry.heartbeat(entry(name, "key"))
    registry.heartbeat(entry("killed-late", "key", status="draining"))
    registry.leave(
        "stopped-1", {"instance_id": "stopped", "nonce": "stopped-1", "kind": "clean", "at": 1, "phases": [{"name": "delay"}]}
    )

    def survivor() -> bool:
        registry.heartbeat(entry("survivor", "key"))
        return len(kinds(registry)) == 3

    wait_until(survivor, what="the obituaries")
    assert sorted(kinds(registry)) == [("killed-1", "crashed"), ("killed-late-1", "forced"), ("stopped-1", "clean")]
    assert registry.heartbeat(entry("survivor", "key")).stops == {"clean": 1, "crashed": 1, "forced": 1}
    told = {stop["nonce"]: stop for stop in registry.stops()}
    assert (told["killed-1"]["summary"], told["killed-1"]["phases"]) == (store.VANISHED, [])
    assert told["stopped-1"]["phases"] == [{"name": "delay"}]
    assert told["killed-1"]["at"] > 1_700_000_000_000


def test_after_an_outage_nobody_is_taken_for_dead(
    registry: Registry, redis_client: redis.Redis, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        registry.heartbeat(entry(name, "key"))
    outage()
    monkeypatch.setattr(store, "OUTAGE_SECONDS", 0)
    registry.heartbeat(entry("one", "key"))
    monkeypatch.setattr(store, "OUTAGE_SECONDS", 60)
    registry.heartbeat(entry("one", "key"))
    registry.heartbeat(entry("two", "key"))
    assert registry.stops() == []


def test_readers_are_told_of_those_that_were_heard_lately(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("two", "one"):
        registry.heartbeat(entry(name, "key"), {"instance_id": name, "start_time": "now"})
    registry.heartbeat(entry("wordless", "key"))
    assert [about["instance_id"] for about in registry.instances()] == ["one", "two"]
    monkeypatch.setattr(store, "SILENT_SECONDS", 0.3)
    wait_until(lambda: registry.instances() == [], what="them to be silent")


def test_an_order_is_seen_before_its_instance_knows(registry: Registry) -> None:
    for name in ("one", "two"):
        registry.heartbeat(entry(name, "key"), {"instance_id": name, "start_time": "now"})
    registry.set_drained(entry("two")["nonce"], True)
    assert [(about["instance_id"], about["set_aside"]) for about in registry.instances()] == [("one", False), ("two", True)]


def test_the_last_stops_are_kept(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_STOPS", 2)
    for number in range(4):
        registry.heartbeat(entry(f"n{number}", "key"))
        registry.leave(f"n{number}-1", {"nonce": f"n{number}-1", "kind": "clean"})
    assert kinds(registry) == [("n3-1", "clean"), ("n2-1", "clean")]


def test_who_is_not_registered_leaves_no_account(registry: Registry) -> None:
    for _ in range(2):
        registry.leave("stranger", {"nonce": "stranger", "kind": "clean"})
    assert registry.stops() == []


def test_an_order_is_heard_with_the_next_heartbeat(registry: Registry) -> None:
    registry.heartbeat(entry("one", "key"))
    for wanted in (True, False):
        registry.set_drained("one-1", wanted)
        assert registry.heartbeat(entry("one", "key")).drained is wanted
    registry.set_drained("one-1", True)
    registry.leave("one-1", None)
    assert registry.heartbeat(entry("one", "key", nonce="2")).drained is False


def test_one_that_was_set_aside_and_then_died_has_crashed(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SILENT_SECONDS", 0.1)
    registry.heartbeat({**entry("one", "key", status="draining"), "is_stopping": False})
    wait_until(lambda: registry.heartbeat(entry("one", "key", nonce="2")).duplicate is None, what="the predecessor to make way")
    assert kinds(registry) == [("one-1", "crashed")]


def test_one_that_was_only_cut_off_is_struck_out_when_it_returns(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ENTRY_TTL_SECONDS", 0.2)
    registry.heartbeat(entry("one", "key"))
    wait_until(lambda: registry.heartbeat(entry("other", "key")) and kinds(registry), what="the crash_record")
    assert registry.heartbeat(entry("one", "key")).stops == {"crashed": 0}
    assert kinds(registry) == []
