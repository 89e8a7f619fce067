from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import redis

from app.core.errors import Unavailable
from app.fleet import store
from app.fleet.store import FleetTotals, Peer, Registry, RingState
from harness.servers import wait_until

RING = "encryption"
NEVER, IMMEDIATELY = 3600.0, 0.0  # until a new key settles


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
        "sockets": 0,
        "keys": {RING: list(keys)},
        "writes_with": {RING: writes_with} if writes_with else {},
    }


class FleetWithKeys:
    """Instances with one keyring, whose new keys settle after the given time."""

    def __init__(self, client: redis.Redis, settle_seconds: float) -> None:
        self._client = client
        self._registry = Registry(client, settle_seconds)

    def beat(self, instance_id: str, *keys: str, nonce: str = "1", writes_with: str | None = None) -> RingState:
        """Send a heartbeat. A new nonce is a restart: the previous start leaves first."""
        for other in map(str, range(10)):
            if other != nonce and self._client.exists(f"fleet:instance:{instance_id}-{other}"):
                self.remove(instance_id, other)
        return self._registry.heartbeat(entry(instance_id, *keys, nonce=nonce, writes_with=writes_with)).rings[RING]

    def active(self, instance_id: str, *keys: str, nonce: str = "1", writes_with: str | None = None) -> str | None:
        return self.beat(instance_id, *keys, nonce=nonce, writes_with=writes_with).active

    def remove(self, instance_id: str, nonce: str = "1") -> None:
        self._registry.leave(f"{instance_id}-{nonce}", None)


@pytest.fixture
def unsettled(redis_client: redis.Redis) -> FleetWithKeys:
    """A fleet in which no new key settles."""
    return FleetWithKeys(redis_client, NEVER)


@pytest.fixture
def settled(redis_client: redis.Redis) -> FleetWithKeys:
    """The same registry, with keys that settle immediately."""
    return FleetWithKeys(redis_client, IMMEDIATELY)


@pytest.fixture
def orphans_expire_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that no live instance holds is given up without waiting."""
    monkeypatch.setattr(store, "ORPHAN_SECONDS", 0)


def test_new_fleet_starts_with_its_oldest_common_key(unsettled: FleetWithKeys, settled: FleetWithKeys) -> None:
    for _ in range(2):
        assert unsettled.beat("one", "new", "old") == RingState("old", frozenset({"new", "old"}))
    assert settled.active("one", "new", "old") == "new"
    assert unsettled.active("two", "new", "old") == "new"


def test_each_keyring_is_decided_separately(redis_client: redis.Redis) -> None:
    registry = Registry(redis_client, NEVER)
    registry.heartbeat({**entry("one"), "keys": {"encryption": ["e1"], "signing": ["s1"]}})
    answer = registry.heartbeat({**entry("two"), "keys": {"encryption": ["e2", "e1"], "signing": ["s1"]}})
    assert answer.rings == {
        "encryption": RingState("e1", frozenset({"e1", "e2"})),
        "signing": RingState("s1", frozenset({"s1"})),
    }


def test_new_key_is_not_used_while_an_instance_lacks_it(settled: FleetWithKeys) -> None:
    settled.beat("one", "old")
    settled.beat("two", "old")
    for _ in range(3):
        assert settled.active("one", "new", "old") == "old"
        assert settled.active("two", "old") == "old"
    settled.beat("two", "new", "old")
    assert settled.active("one", "new", "old") == "new"


def test_instance_that_left_does_not_block_a_new_key(settled: FleetWithKeys) -> None:
    settled.beat("one", "old")
    settled.beat("two", "old")
    settled.remove("two")
    assert settled.active("one", "new", "old") == "new"


def test_new_key_is_not_used_before_it_has_settled(unsettled: FleetWithKeys, settled: FleetWithKeys) -> None:
    unsettled.beat("one", "old")
    for name in ("one", "two", "one", "two"):
        assert unsettled.active(name, "new", "old", nonce="2") == "old"
    assert settled.active("one", "new", "old", nonce="2") == "new"
    assert unsettled.active("two", "new", "old", nonce="2") == "new"


def test_settling_starts_when_the_last_instance_gets_the_key(redis_client: redis.Redis) -> None:
    fleet = FleetWithKeys(redis_client, 0.3)
    fleet.beat("one", "old")
    fleet.beat("two", "old")
    fleet.beat("one", "new", "old", nonce="2")
    started = time.monotonic()
    fleet.beat("two", "new", "old", nonce="2")
    wait_until(lambda: fleet.active("one", "new", "old", nonce="2") == "new", what="the new key to become active")
    assert time.monotonic() - started >= 0.29


def test_restart_resets_the_settling_time(redis_client: redis.Redis, unsettled: FleetWithKeys) -> None:
    def since(nonce: str = "one-1") -> int:
        return int(cast(bytes, redis_client.hget(f"fleet:instance:{nonce}", "since")))

    unsettled.beat("one", "new", nonce="1")
    first = since()
    wait_until(lambda: redis_client.time() > (first // 1000, first % 1000 * 1000 + 999), what="the next millisecond")
    unsettled.beat("one", "new", nonce="1")
    assert since() == first
    unsettled.beat("one", "new", nonce="2")
    assert since("one-2") > first


def test_rollback_before_the_switch_is_harmless(unsettled: FleetWithKeys, settled: FleetWithKeys) -> None:
    unsettled.beat("one", "old")
    unsettled.beat("two", "old")
    unsettled.beat("one", "new", "old", nonce="2")
    assert settled.active("one", "old", nonce="3") == "old"
    assert settled.beat("two", "old") == RingState("old", frozenset({"old"}))


def test_fleet_does_not_return_to_an_old_key_for_one_instance(settled: FleetWithKeys) -> None:
    settled.beat("one", "old")
    assert settled.active("one", "new", "old") == "new"
    for _ in range(3):
        assert settled.beat("late", "old") == RingState("new", frozenset({"new", "old"}))
        assert settled.active("one", "new", "old") == "new"


def test_old_key_is_dropped_when_no_instance_holds_it(settled: FleetWithKeys) -> None:
    settled.beat("one", "old")
    settled.beat("one", "new", "old")
    assert settled.beat("one", "new", nonce="2") == RingState("new", frozenset({"new"}))


def test_new_key_must_precede_the_active_one_on_every_instance(settled: FleetWithKeys) -> None:
    settled.beat("one", "a")
    settled.beat("two", "a")
    settled.beat("one", "b", "a", nonce="2")
    assert settled.active("two", "a", "b", nonce="2") == "a"
    assert settled.active("one", "b", "a", nonce="2") == "a"
    settled.beat("two", "b", "a", nonce="3")
    assert settled.active("one", "b", "a", nonce="2") == "b"


def test_active_key_that_no_instance_holds_is_given_up(unsettled: FleetWithKeys, orphans_expire_immediately: None) -> None:
    unsettled.beat("one", "lost")
    assert unsettled.beat("one", "new", nonce="2") == RingState("new", frozenset({"new"}))


def test_newest_common_key_becomes_active(settled: FleetWithKeys) -> None:
    settled.beat("one", "old")
    settled.beat("two", "newer", "old")
    assert settled.active("one", "newest", "newer", "old", nonce="2") == "newer"


def expire_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(store, "ENTRY_TTL_SECONDS", 0.5)


def test_entry_expires_and_a_crash_is_recorded(
    redis_client: redis.Redis, settled: FleetWithKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled.beat("one", "old")
    assert 0 < redis_client.pttl("fleet:instance:one-1") <= store.ENTRY_TTL_SECONDS * 1000 == 10_000
    expire_soon(monkeypatch)
    settled.beat("silent", "silent")
    assert "silent" in settled.beat("one", "old").known
    wait_until(lambda: "silent" not in settled.beat("one", "old").known, what="the entry to expire")
    wait_until(
        lambda: settled.beat("one", "old") and redis_client.hkeys("fleet:instances") == [b"one-1"], what="the crash record"
    )


def test_expired_entry_does_not_block_a_new_key(settled: FleetWithKeys, redis_client: redis.Redis) -> None:
    settled.beat("one", "old")
    settled.beat("silent", "old")
    assert settled.active("one", "new", "old") == "old"
    expire(redis_client, "silent-1")
    assert settled.active("one", "new", "old") == "new"


def test_leave_takes_effect_immediately(settled: FleetWithKeys, redis_client: redis.Redis) -> None:
    settled.beat("one", "one")
    settled.beat("two", "two")
    settled.remove("two")
    assert settled.beat("one", "one").known == {"one"}
    assert redis_client.exists("fleet:instance:two-1") == 0
    settled.remove("two")


def test_heartbeat_stores_the_entry(settled: FleetWithKeys, redis_client: redis.Redis) -> None:
    settled.beat("one", "new", "old", nonce="7")
    kept = json.loads(cast(bytes, redis_client.hget("fleet:instance:one-7", "entry")))
    assert entry("one", "new", "old", nonce="7") == kept


def test_failing_registry_raises_unavailable(redis_client: redis.Redis, settled: FleetWithKeys) -> None:
    redis_client.set("fleet:instances", "text")
    with pytest.raises(Unavailable):
        settled.beat("one", "old")


def expire(redis_client: redis.Redis, *nonces: str) -> None:
    """Let the entries expire, as without a heartbeat for the time to live."""
    for nonce in nonces:
        redis_client.delete(f"fleet:instance:{nonce}")
        redis_client.zadd("fleet:deadlines", {nonce: 0}, xx=True)


Outage = Callable[[], None]


@pytest.fixture
def outage(redis_client: redis.Redis) -> Outage:
    """Returns a function that lets all entries expire, as when Redis is unavailable for longer than the time to live."""

    def end() -> None:
        expire(redis_client, *[nonce.decode() for nonce in cast(list[bytes], redis_client.hkeys("fleet:instances"))])

    return end


def test_active_key_survives_an_outage(unsettled: FleetWithKeys, outage: Outage) -> None:
    unsettled.beat("one", "old")
    unsettled.beat("one", "new", "old")
    outage()
    assert unsettled.active("one", "new", "old") == "old"


def test_after_an_outage_an_outdated_instance_does_not_change_the_active_key(unsettled: FleetWithKeys, outage: Outage) -> None:
    for name in ("one", "two"):
        unsettled.beat(name, "new")
    assert unsettled.active("outdated", "old") == "new"  # which keeps it from becoming ready
    outage()
    unsettled.beat("outdated", "old")
    assert unsettled.active("one", "new") == "new"


def test_after_data_loss_a_ready_instance_restores_the_active_key(unsettled: FleetWithKeys, redis_client: redis.Redis) -> None:
    redis_client.flushall()
    assert unsettled.active("one", "new", "old", writes_with="new") == "new"
    assert unsettled.active("two", "new", "old") == "new"


def test_after_data_loss_an_outdated_instance_does_not_decide_the_active_key(
    unsettled: FleetWithKeys, redis_client: redis.Redis
) -> None:
    unsettled.beat("one", "new")
    assert unsettled.active("outdated", "old") == "new"  # which keeps it from becoming ready
    redis_client.flushall()
    unsettled.beat("outdated", "old")
    assert unsettled.active("one", "new", writes_with="new") == "new"


def test_orphaned_key_is_given_up_only_after_a_wait(
    unsettled: FleetWithKeys, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "ORPHAN_SECONDS", 1)
    unsettled.beat("one", "lost")
    assert unsettled.active("one", "new", nonce="2") == "lost"
    wait_until(lambda: unsettled.active("one", "new", nonce="2") == "new", what="the lost key to be given up")


def test_without_a_common_key_there_is_no_active_key(unsettled: FleetWithKeys, orphans_expire_immediately: None) -> None:
    unsettled.beat("one", "lost")
    unsettled.beat("two", "a")
    unsettled.beat("three", "b")
    unsettled.remove("one")
    assert unsettled.beat("two", "a") == unsettled.beat("three", "b")
    assert unsettled.active("two", "a") is None
    assert unsettled.active("two", "b", "a", nonce="2") == "b"


@pytest.mark.parametrize(
    ("script", "arguments"),
    [("heartbeat", store._Heartbeat), ("leave", store._Leave), ("instances", store._Instances)],
)
def test_scripts_name_their_keys_and_arguments_like_the_python_side(script: str, arguments: type[NamedTuple]) -> None:
    source = "".join(Path(store.__file__).with_name(f"{part}.lua").read_text() for part in ("members", script))
    keys = re.findall(r"^local (\w+) = KEYS\[(\d+)\]", source, re.MULTILINE)
    values = re.findall(r"^local (\w+) = (?:tonumber\()?ARGV\[(\d+)\]", source, re.MULTILINE)
    for found, names in ((keys, store._Keys._fields), (values, arguments._fields)):
        assert tuple(name for name, _ in found) == names
        assert [int(index) for _, index in found] == list(range(1, len(found) + 1))
    assert source.count("KEYS[") + source.count("ARGV[") == len(keys) + len(values)


# Peers, duplicates and stops.


@pytest.fixture
def registry(redis_client: redis.Redis) -> Registry:
    return Registry(redis_client)


def kinds(registry: Registry) -> list[tuple[str, str]]:
    return [(stop["nonce"], stop["kind"]) for stop in registry.stops()]


def test_heartbeat_returns_totals(registry: Registry) -> None:
    def totals(name: str, sockets: int, status: str = "ready") -> FleetTotals:
        return registry.heartbeat({**entry(name, "key", status=status), "sockets": sockets}).totals

    assert totals("one", 7) == FleetTotals(1, 5, ready=1, sockets=7, fewest_sockets=7, is_changing=False)
    assert totals("two", 3, "starting") == FleetTotals(2, 10, ready=1, sockets=7, fewest_sockets=7, is_changing=True)
    assert totals("two", 3) == FleetTotals(2, 10, ready=2, sockets=10, fewest_sockets=3, is_changing=False)
    assert totals("one", 1) == FleetTotals(2, 10, ready=2, sockets=4, fewest_sockets=1, is_changing=False)
    assert totals("one", 1, "draining") == FleetTotals(2, 10, ready=1, sockets=3, fewest_sockets=3, is_changing=True)
    registry.leave("one-1", None)
    assert totals("two", 2) == FleetTotals(1, 5, ready=1, sockets=2, fewest_sockets=2, is_changing=False)


def test_silent_instance_is_not_in_the_totals(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.heartbeat({**entry("silent", "key"), "sockets": 9})
    assert registry.heartbeat(entry("one", "key")).totals == FleetTotals(2, 10, 2, 9, 0, is_changing=False)
    monkeypatch.setattr(store, "SILENT_SECONDS", 0.1)
    registry.heartbeat({**entry("silent", "key"), "sockets": 9})
    monkeypatch.undo()
    wait_until(lambda: registry.heartbeat(entry("one", "key")).totals.instances == 1, what="the instance to become silent")
    assert registry.heartbeat(entry("one", "key")).totals == FleetTotals(1, 5, 1, 0, 0, is_changing=True)
    assert registry.heartbeat(entry("silent", "key")).totals == FleetTotals(2, 10, 2, 0, 0, is_changing=False)


def test_peers_are_the_instances_with_a_recent_heartbeat(registry: Registry) -> None:
    registry.heartbeat(entry("one", "key"))
    registry.heartbeat(entry("two", "key", status="starting"))
    assert sorted(registry.peers(), key=lambda peer: peer.nonce) == [
        Peer("one-1", "one", "ready"),
        Peer("two-1", "two", "starting"),
    ]


def test_younger_duplicate_is_given_the_older_one(registry: Registry) -> None:
    registry.heartbeat(entry("one", "key", nonce="a"))
    for _ in range(3):
        assert registry.heartbeat(entry("one", "key", nonce="z")).duplicate == {"hostname": "host", "pid": 17}
        assert registry.heartbeat(entry("one", "key", nonce="a")).duplicate is None
    registry.leave("one-a", None)
    assert registry.heartbeat(entry("one", "key", nonce="z")).duplicate is None
    assert registry.stops() == []


def test_silent_predecessor_of_the_same_name_is_recorded_as_crashed(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SILENT_SECONDS", 0.2)
    registry.heartbeat(entry("one", "key", nonce="1"))
    assert registry.heartbeat(entry("one", "key", nonce="2")).duplicate is not None
    wait_until(lambda: registry.heartbeat(entry("one", "key", nonce="2")).duplicate is None, what="the predecessor to be removed")
    assert kinds(registry) == [("one-1", "crashed")]


def test_stops_are_recorded_by_kind(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    expire_soon(monkeypatch)
    for name in ("killed", "stopped"):
        registry.heartbeat(entry(name, "key"))
    registry.heartbeat(entry("killed-late", "key", status="draining"))
    registry.leave(
        "stopped-1", {"instance_id": "stopped", "nonce": "stopped-1", "kind": "clean", "at": 1, "phases": [{"name": "delay"}]}
    )

    def all_recorded() -> bool:
        registry.heartbeat(entry("survivor", "key"))
        return len(kinds(registry)) == 3

    wait_until(all_recorded, what="the crash records")
    assert sorted(kinds(registry)) == [("killed-1", "crashed"), ("killed-late-1", "forced"), ("stopped-1", "clean")]
    assert registry.heartbeat(entry("survivor", "key")).stops == {"clean": 1, "crashed": 1, "forced": 1}
    stops = {stop["nonce"]: stop for stop in registry.stops()}
    assert (stops["killed-1"]["summary"], stops["killed-1"]["phases"]) == (store.VANISHED.format("instance"), [])
    assert stops["stopped-1"]["phases"] == [{"name": "delay"}]
    assert stops["killed-1"]["at"] > 1_700_000_000_000


def test_no_crash_is_recorded_after_an_outage(
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


def test_instances_lists_those_with_a_recent_heartbeat(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("two", "one"):
        registry.heartbeat(entry(name, "key"), {"instance_id": name, "start_time": "now"})
    registry.heartbeat(entry("without-status", "key"))
    assert [about["instance_id"] for about in registry.instances()] == ["one", "two"]
    monkeypatch.setattr(store, "SILENT_SECONDS", 0.3)
    wait_until(lambda: registry.instances() == [], what="the instances to be hidden")


def test_drain_is_visible_before_the_instance_is_notified(registry: Registry) -> None:
    for name in ("one", "two"):
        registry.heartbeat(entry(name, "key"), {"instance_id": name, "start_time": "now"})
    registry.set_drained(entry("two")["nonce"], True)
    assert [(about["instance_id"], about["set_aside"]) for about in registry.instances()] == [("one", False), ("two", True)]


def test_only_the_last_stops_are_kept(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_STOPS", 2)
    for number in range(4):
        registry.heartbeat(entry(f"n{number}", "key"))
        registry.leave(f"n{number}-1", {"nonce": f"n{number}-1", "kind": "clean"})
    assert kinds(registry) == [("n3-1", "clean"), ("n2-1", "clean")]


def test_unregistered_instance_records_no_stop(registry: Registry) -> None:
    for _ in range(2):
        registry.leave("unknown", {"nonce": "unknown", "kind": "clean"})
    assert registry.stops() == []


def test_next_heartbeat_returns_the_drain(registry: Registry) -> None:
    registry.heartbeat(entry("one", "key"))
    for drained in (True, False):
        registry.set_drained("one-1", drained)
        assert registry.heartbeat(entry("one", "key")).drained is drained
    registry.set_drained("one-1", True)
    registry.leave("one-1", None)
    assert registry.heartbeat(entry("one", "key", nonce="2")).drained is False


def test_drained_instance_that_dies_is_recorded_as_crashed(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SILENT_SECONDS", 0.1)
    registry.heartbeat({**entry("one", "key", status="draining"), "is_stopping": False})
    wait_until(lambda: registry.heartbeat(entry("one", "key", nonce="2")).duplicate is None, what="the predecessor to be removed")
    assert kinds(registry) == [("one-1", "crashed")]


def test_crash_record_is_removed_when_the_instance_reconnects(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    expire_soon(monkeypatch)
    registry.heartbeat(entry("one", "key"))
    wait_until(lambda: registry.heartbeat(entry("other", "key")) and kinds(registry), what="the crash record")
    assert registry.heartbeat(entry("one", "key")).stops == {"crashed": 0}
    assert kinds(registry) == []


# What a heartbeat costs.


def executed(client: redis.Redis, beat: Callable[[], object]) -> tuple[dict[str, int], int]:
    """Return how often a heartbeat executed each command, and how many bytes Redis received and sent for it."""

    def read() -> tuple[dict[str, int], int]:
        calls = {name: usage["calls"] for name, usage in client.info("commandstats").items()}
        traffic = client.info("stats")
        return calls, traffic["total_net_input_bytes"] + traffic["total_net_output_bytes"]

    read()
    calls, size = read()
    beat()
    calls_after, size_after = read()
    _, size_of_reading = read()
    used = {name: count - calls.get(name, 0) for name, count in calls_after.items() if name != "cmdstat_info"}
    return {name: count for name, count in used.items() if count}, size_after - size - (size_of_reading - size_after)


def test_heartbeat_costs_the_same_in_a_large_fleet(
    registry: Registry, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SILENT_SECONDS", "ENTRY_TTL_SECONDS"):
        monkeypatch.setattr(store, name, 600)  # on a busy machine, two hundred heartbeats take a while

    def beat() -> None:
        registry.heartbeat(entry("n0", "key"), about)

    def join(size: int) -> None:
        for number in range(size):
            registry.heartbeat(entry(f"n{number}", "key"), about)

    about = {"instance_id": "n", "start_time": "now"}
    join(3)
    few, bytes_of_few = executed(redis_client, beat)
    join(200)
    many, bytes_of_many = executed(redis_client, beat)
    assert few == many
    assert sum(many.values()) < 30
    assert not {"cmdstat_hkeys", "cmdstat_hvals", "cmdstat_smembers"} & many.keys()
    assert many["cmdstat_hgetall"] == 2  # profiles and numbers of stops
    assert abs(bytes_of_many - bytes_of_few) < 50  # the digits of larger numbers
    assert redis_client.hlen("fleet:profiles") == 1
    commands_of_listing, bytes_of_listing = executed(redis_client, registry.instances)
    assert sum(commands_of_listing.values()) > 200
    assert bytes_of_listing > 2 * bytes_of_many


# Instances of the previous release, which use the same registry during a rolling deployment but know nothing of members.


class PreviousRelease:
    """Does what the script of the previous release did."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def beat(self, instance_id: str, *keys: str, nonce: str = "1") -> None:
        now, key = self._now(), f"fleet:instance:{instance_id}-{nonce}"
        record = json.dumps({"instance_id": instance_id, "nonce": f"{instance_id}-{nonce}", "kind": "crashed", "summary": "gone"})
        stored = {field: value for field, value in entry(instance_id, *keys, nonce=nonce).items() if field != "sockets"}
        since = self._client.hget(key, "since") or now
        self._client.hset(key, mapping={"entry": json.dumps(stored), "since": since, "seen": now})
        self._client.pexpire(key, int(store.ENTRY_TTL_SECONDS * 1000))
        self._client.hset("fleet:instances", f"{instance_id}-{nonce}", record)
        self._client.hset("fleet:heartbeats", "at", now)

    def remove(self, nonce: str) -> None:
        """Record an instance as crashed."""
        self._client.hdel("fleet:instances", nonce)
        self._client.delete(f"fleet:instance:{nonce}")

    def _now(self) -> int:
        seconds, microseconds = self._client.time()
        return seconds * 1000 + microseconds // 1000


@pytest.fixture
def previous(redis_client: redis.Redis) -> PreviousRelease:
    return PreviousRelease(redis_client)


def test_instance_of_the_previous_release_is_a_part_of_the_fleet(registry: Registry, previous: PreviousRelease) -> None:
    previous.beat("old", "one-key", "key")
    reply = registry.heartbeat(entry("new", "key"))
    assert reply.totals == FleetTotals(2, 10, ready=1, sockets=0, fewest_sockets=0, is_changing=True)
    assert reply.rings[RING] == RingState("key", frozenset({"key", "one-key"}))
    assert {peer.nonce for peer in registry.peers()} == {"old-1", "new-1"}
    assert registry.heartbeat(entry("old", "key", nonce="2")).duplicate == {"hostname": "host", "pid": 17}


def test_new_key_waits_for_the_previous_release(settled: FleetWithKeys, previous: PreviousRelease) -> None:
    previous.beat("old", "old")
    assert settled.active("one", "new", "old") == "old"
    previous.beat("old", "new", "old")
    assert settled.active("one", "new", "old") == "new"


def test_vanished_instance_of_the_previous_release_is_recorded_as_crashed(
    registry: Registry, previous: PreviousRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    expire_soon(monkeypatch)
    previous.beat("old", "key")
    previous.beat("silent", "key")
    wait_until(lambda: registry.heartbeat(entry("silent", "key", nonce="2")).duplicate is None, what="the silent predecessor")
    assert ("silent-1", "crashed") in kinds(registry)
    wait_until(
        lambda: registry.heartbeat(entry("new", "key")) and ("old-1", "crashed") in kinds(registry), what="the crash record"
    )


def test_member_that_the_previous_release_removed_is_forgotten(registry: Registry, previous: PreviousRelease) -> None:
    for name in ("one", "two"):
        registry.heartbeat(entry(name, "key"))
    previous.beat("old", "key")  # so there are as many crash records as members
    previous.remove("two-1")
    assert registry.heartbeat(entry("one", "key")).totals.instances == 2
    assert registry.heartbeat(entry("two", "key")).totals.instances == 3


@pytest.mark.parametrize("name", ["members", "profiles", "deadlines", "starts", "names", "sockets", "heartbeats"])
def test_lost_key_is_restored_by_heartbeats_and_the_next_start(registry: Registry, redis_client: redis.Redis, name: str) -> None:
    def beat(instance_id: str) -> FleetTotals:
        return registry.heartbeat({**entry(instance_id, "key"), "sockets": 4}).totals

    for instance_id in ("one", "two"):
        beat(instance_id)
    redis_client.delete(f"fleet:{name}")
    for instance_id in ("one", "two", "three"):
        beat(instance_id)
    assert beat("one") == FleetTotals(3, 15, ready=3, sockets=12, fewest_sockets=4, is_changing=False)


@pytest.mark.parametrize("name", ["members", "profiles"])
def test_lost_key_does_not_hide_an_instance_that_lacks_the_new_key(
    settled: FleetWithKeys, redis_client: redis.Redis, name: str
) -> None:
    settled.beat("two", "old")
    settled.beat("one", "new", "old")
    redis_client.delete(f"fleet:{name}")
    assert settled.active("one", "new", "old") == "old"


def test_nothing_is_left_of_instances_that_left(registry: Registry, redis_client: redis.Redis) -> None:
    for name in ("one", "two"):
        registry.heartbeat({**entry(name, "key"), "sockets": 4})
    for name in ("one", "two"):
        registry.leave(f"{name}-1", None)
    assert {key.decode() for key in redis_client.scan_iter("*")} == {"fleet:active-keys", "fleet:heartbeats"}
    assert redis_client.hget("fleet:heartbeats", "sockets") == b"0"


def test_registry_of_a_cluster_is_in_one_slot(cluster_client: redis.Redis) -> None:
    registry = Registry(cluster_client)
    registry.heartbeat(entry("one", "key"), {"instance_id": "one", "start_time": "now"})
    registry.heartbeat(entry("two", "key"), {"instance_id": "two", "start_time": "now"})
    registry.set_drained("two-1", True)
    assert registry.heartbeat(entry("two", "key")).totals == FleetTotals(2, 10, 2, 0, 0, is_changing=False)
    assert [(about["instance_id"], about["set_aside"]) for about in registry.instances()] == [("one", False), ("two", True)]
    registry.leave("two-1", {"instance_id": "two", "nonce": "two-1", "kind": "clean", "at": 1})
    assert kinds(registry) == [("two-1", "clean")]
    assert {peer.nonce for peer in registry.peers()} == {"one-1"}
    assert all(key.startswith(b"{fleet}:") for key in cluster_client.scan_iter("*"))
