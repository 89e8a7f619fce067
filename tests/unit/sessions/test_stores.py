"""The interface of session stores, tested with Redis, Redis Cluster, SQLite and PostgreSQL."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from app.core.errors import Unavailable
from app.core.keyring import Keyring, key_id
from app.redis.client import RedisCommands
from app.redis.cluster import SLOTS, ClusterClient, ClusterPipeline, NodeAddress, slot_of_key
from app.redis.multiplexed import MultiplexedRedis, share_connection
from app.sessions import sql_store
from app.sessions.cipher import CorruptRecord, RecordCipher
from app.sessions.redis_store import RedisSessionStore
from app.sessions.store import (
    MAX_SESSIONS_PER_USER,
    PASSWORD_VERSION_OF_DELETED_ACCOUNT,
    SIGNED,
    FieldChange,
    Owner,
    SessionStore,
    key_ids,
    public_id,
    record_key,
    user_id_of_key,
)
from harness.redis_cluster import RedisCluster
from harness.servers import RedisServer, wait_until
from tests.unit.conftest import clients_of
from tests.unit.sessions.conftest import MAX_AGE, Backend

ONE, TWO, THREE = (record_key(name) for name in ("one", "two", "three"))
FIELDS = {"name": b"\x00\xff value", ".created": b"1"}
TTL = 100
LOST_AFTER_SECONDS = 2.0


def create(store: SessionStore, key: str, *, owner: Owner | None = None, ttl: int = TTL, replaces: str | None = None) -> bool:
    return store.create(key, dict(FIELDS), ttl, owner, replaces)


# Keys and IDs.


def test_record_key_is_a_digest_of_the_id() -> None:
    assert record_key("one") == "session:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"


def test_record_key_names_the_user_if_the_id_does() -> None:
    assert user_id_of_key(record_key("17.random")) == 17
    assert user_id_of_key(record_key("random")) is None
    assert user_id_of_key("") is None


def test_public_id_does_not_reveal_other_ids() -> None:
    name = public_id(ONE)
    assert name not in ONE
    assert len(name) == 24
    assert name == public_id(ONE) != public_id(TWO)


# Records.


def test_missing_record_is_none(store: SessionStore) -> None:
    assert store.load(ONE) is None


def test_created_record_is_loaded(store: SessionStore) -> None:
    assert create(store, ONE)
    assert store.load(ONE) == FIELDS
    assert store.load(TWO) is None


def test_destroyed_record_is_none(store: SessionStore) -> None:
    create(store, ONE)
    create(store, TWO)
    store.destroy(ONE)
    store.destroy(THREE)
    assert store.load(ONE) is None
    assert store.load(TWO) == FIELDS


def test_record_expires_after_its_ttl(store: SessionStore) -> None:
    create(store, ONE, ttl=1)
    wait_until(lambda: store.load(ONE) is None, what="the record to expire")
    assert not store.merge(ONE, {"name": FieldChange(b"back")}, TTL)
    assert store.load(ONE) is None


def test_new_record_replaces_another(backend: Backend) -> None:
    owner = backend.new_owner()
    first, second, third = backend.keys(owner)
    anonymous = backend.key("anonymous")
    create(backend.store, anonymous)
    create(backend.store, first, owner=owner)
    assert create(backend.store, second, owner=owner, replaces=anonymous)
    assert backend.store.load(anonymous) is None
    assert set(backend.store.records_of_user(owner.user_id)) == {first, second}
    assert create(backend.store, third, owner=owner, replaces=first)
    assert set(backend.store.records_of_user(owner.user_id)) == {second, third}


# Changes.


def test_merge_changes_only_the_given_fields(store: SessionStore) -> None:
    create(store, ONE)
    assert store.merge(ONE, {"name": FieldChange(b"other"), "new": FieldChange(b"")}, None)
    assert store.load(ONE) == {"name": b"other", "new": b"", ".created": b"1"}
    assert store.merge(ONE, {"name": FieldChange(None), "never": FieldChange(None)}, None)
    assert store.load(ONE) == {"new": b"", ".created": b"1"}


def test_merge_does_not_restore_a_destroyed_record(store: SessionStore) -> None:
    create(store, ONE)
    store.destroy(ONE)
    assert not store.merge(ONE, {"name": FieldChange(b"other")}, TTL)
    assert store.load(ONE) is None


def test_change_applies_only_to_the_expected_value(store: SessionStore) -> None:
    create(store, ONE)
    changes = {
        "name": FieldChange(b"other", expected=FIELDS["name"]),
        ".created": FieldChange(b"2", expected=b"3"),
        "missing": FieldChange(b"new", expected=b""),
    }
    assert store.merge(ONE, changes, None)
    assert store.load(ONE) == {"name": b"other", ".created": b"1"}


def test_deletion_applies_only_to_the_expected_value(store: SessionStore) -> None:
    create(store, ONE)
    store.merge(ONE, {"name": FieldChange(None, expected=b"other")}, None)
    assert store.load(ONE) == FIELDS
    store.merge(ONE, {"name": FieldChange(None, expected=FIELDS["name"])}, None)
    assert store.load(ONE) == {".created": b"1"}


def test_merge_without_ttl_keeps_the_ttl(store: SessionStore) -> None:
    create(store, ONE, ttl=1)
    store.merge(ONE, {"name": FieldChange(b"other")}, None)
    create(store, TWO, ttl=1)
    store.merge(TWO, {"name": FieldChange(b"other")}, TTL)
    wait_until(lambda: store.load(ONE) is None, what="the record to expire")
    assert store.load(TWO) is not None


def test_merge_without_applied_changes_keeps_the_ttl(store: SessionStore) -> None:
    create(store, ONE, ttl=1)
    assert store.merge(ONE, {"name": FieldChange(b"other", expected=b"unlike")}, TTL)
    wait_until(lambda: store.load(ONE) is None, what="the record to expire")


def test_merge_can_shorten_the_ttl(store: SessionStore) -> None:
    create(store, ONE)
    store.merge(ONE, {"name": FieldChange(b"other")}, 1)
    wait_until(lambda: store.load(ONE) is None, what="the record to expire")


# Users.


def test_records_are_listed_per_user(backend: Backend) -> None:
    store, ada, bob = backend.store, backend.new_owner("ada@example.org"), backend.new_owner("bob@example.org")
    first, second, _ = backend.keys(ada)
    other = backend.key("other", bob)
    create(store, first, owner=ada)
    create(store, second, owner=ada)
    create(store, other, owner=bob)
    assert store.records_of_user(ada.user_id) == {first: FIELDS, second: FIELDS}
    store.destroy(first)
    assert store.records_of_user(ada.user_id) == {second: FIELDS}
    assert store.records_of_user(bob.user_id) == {other: FIELDS}


def create_and_end(store: SessionStore, owner: Owner, count: int) -> None:
    for number in range(count):
        key = record_key(str(number))
        create(store, key, owner=owner)
        store.destroy(key)


def test_record_without_owner_is_not_listed(backend: Backend) -> None:
    owner = backend.new_owner()
    create(backend.store, ONE)
    assert backend.store.records_of_user(owner.user_id) == {}
    assert backend.store.destroy_all(owner.user_id, keep=None) == 0
    assert backend.store.load(ONE) == FIELDS


def test_expired_record_is_not_listed(backend: Backend) -> None:
    owner = backend.new_owner()
    first, second, _ = backend.keys(owner)
    create(backend.store, first, owner=owner, ttl=1)
    create(backend.store, second, owner=owner)
    wait_until(lambda: set(backend.store.records_of_user(owner.user_id)) == {second}, what="the record to expire")


def test_destroy_all_keeps_one_record(backend: Backend) -> None:
    store, ada, bob = backend.store, backend.new_owner("ada@example.org"), backend.new_owner("bob@example.org")
    first, second, _ = backend.keys(ada)
    other = backend.key("other", bob)
    for key in (first, second):
        create(store, key, owner=ada)
    create(store, other, owner=bob)
    assert store.destroy_all(ada.user_id, keep=second) == 1
    assert store.load(first) is None
    assert store.records_of_user(ada.user_id) == {second: FIELDS}
    assert store.records_of_user(bob.user_id) == {other: FIELDS}


def test_destroy_all_destroys_every_record(backend: Backend) -> None:
    owner = backend.new_owner()
    for key in backend.keys(owner):
        create(backend.store, key, owner=owner)
    assert backend.store.destroy_all(owner.user_id, keep=None) == 3
    assert backend.store.records_of_user(owner.user_id) == {}
    assert backend.store.destroy_all(owner.user_id, keep=None) == 0


def test_record_is_not_created_with_an_older_password(backend: Backend) -> None:
    old = backend.new_owner()
    first, second, _ = backend.keys(old)
    anonymous = backend.key("anonymous")
    create(backend.store, anonymous)
    new = backend.change_password(old)
    assert not create(backend.store, first, owner=old, replaces=anonymous)
    assert backend.store.load(first) is None
    assert backend.store.load(anonymous) == FIELDS
    assert backend.store.records_of_user(old.user_id) == {}
    assert create(backend.store, second, owner=new)


def test_destroy_all_without_version_allows_new_records(backend: Backend) -> None:
    owner = backend.new_owner()
    backend.store.destroy_all(owner.user_id, keep=None)
    assert create(backend.store, backend.key("one", owner), owner=owner)


def test_oldest_record_is_destroyed_above_the_limit(backend: Backend) -> None:
    owner = backend.new_owner()
    create(backend.store, ONE)
    keys = [backend.key(str(number), owner) for number in range(MAX_SESSIONS_PER_USER + 1)]
    create(backend.store, keys[0], owner=owner, ttl=TTL - 1)
    for key in keys[1:]:
        create(backend.store, key, owner=owner)
    assert len(backend.store.records_of_user(owner.user_id)) == MAX_SESSIONS_PER_USER
    assert backend.store.load(keys[-1]) == backend.store.load(ONE) == FIELDS
    assert backend.store.destroy_all(owner.user_id, keep=None) == MAX_SESSIONS_PER_USER


def test_destroyed_records_do_not_count_towards_the_limit(sqlite_backend: Backend) -> None:
    owner = sqlite_backend.new_owner()
    create(sqlite_backend.store, ONE, owner=owner, ttl=TTL - 1)
    create_and_end(sqlite_backend.store, owner, MAX_SESSIONS_PER_USER + 1)
    assert sqlite_backend.store.load(ONE) == FIELDS


# Keys.


def sealed(secret: bytes) -> bytes:
    return RecordCipher(Keyring("encryption", (secret,)), ONE).encrypt("name", b"value")


def test_key_ids_in_use_are_listed_per_record(store: SessionStore) -> None:
    new, old, signing = b"n" * 32, b"o" * 32, key_id(b"s" * 32)
    assert list(store.key_ids_in_use()) == []
    store.create(ONE, {"name": sealed(new), ".seen": sealed(old), SIGNED: signing.encode()}, TTL, None, None)
    store.create(TWO, {"name": sealed(old)}, TTL, None, None)
    expected = [{key_id(old)}, {key_id(new), key_id(old), signing}]
    assert sorted(store.key_ids_in_use(), key=len) == expected


def test_key_ids_are_read_in_batches(sqlite_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_store, "SCAN_BATCH", 2)
    for number in range(5):
        create(sqlite_backend.store, record_key(str(number)))
    assert len(list(sqlite_backend.store.key_ids_in_use())) == 5


def test_garbage_has_no_key_ids() -> None:
    assert key_ids({"name": b"garbage", SIGNED: b"\xff"}) == {"\ufffd"}
    assert key_ids({}) == frozenset()


# Only Redis.


@pytest.fixture
def redis_store(redis_client: redis.Redis, multiplexed: MultiplexedRedis) -> RedisSessionStore:
    return RedisSessionStore(redis_client, multiplexed, MAX_AGE)


Put = Callable[[redis.Redis], object]
OTHER_TYPES: dict[str, Put] = {
    "string": lambda client: client.set(ONE, b"\x80\x04N."),
    "list": lambda client: client.rpush(ONE, "value"),
    "set": lambda client: client.sadd(ONE, "value"),
    "sorted set": lambda client: client.zadd(ONE, {"value": 1}),
}


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_key_of_another_type_is_a_corrupt_record(redis_store: RedisSessionStore, redis_client: redis.Redis, kind: str) -> None:
    OTHER_TYPES[kind](redis_client)
    with pytest.raises(CorruptRecord, match="type"):
        redis_store.load(ONE)
    redis_store.destroy(ONE)
    assert redis_store.load(ONE) is None


def test_key_of_another_type_does_not_break_lists(redis_store: RedisSessionStore, redis_client: redis.Redis) -> None:
    owner = Owner(7, 1)
    create(redis_store, TWO, owner=owner)
    create(redis_store, ONE, owner=owner)
    redis_client.delete(ONE)
    redis_client.set(ONE, "text")
    assert redis_store.records_of_user(7) == {TWO: FIELDS}
    assert sorted(redis_store.key_ids_in_use()) == [frozenset(), frozenset()]


def test_field_name_that_is_not_utf8_is_replaced(redis_store: RedisSessionStore, redis_client: redis.Redis) -> None:
    redis_client.hset(ONE, b"\xff", b"value")
    assert redis_store.load(ONE) == {"\ufffd": b"value"}


def test_each_redis_key_has_a_ttl(redis_store: RedisSessionStore, redis_client: redis.Redis) -> None:
    create(redis_store, ONE, owner=Owner(7, 1))
    redis_store.merge(ONE, {"name": FieldChange(b"other")}, None)
    redis_store.destroy_all(7, keep=ONE, password_version=2)
    times = {key.decode(): redis_client.ttl(key) for key in redis_client.scan_iter()}
    assert set(times) == {ONE, "user:7:sessions", "user:7:password-version"}
    assert 0 < times[ONE] <= TTL
    assert TTL < times["user:7:sessions"] <= MAX_AGE
    assert TTL < times["user:7:password-version"] <= MAX_AGE


def test_new_session_extends_the_ttl_of_the_index(redis_store: RedisSessionStore, redis_client: redis.Redis) -> None:
    create(redis_store, ONE, owner=Owner(7, 1))
    redis_client.expire("user:7:sessions", 1)
    create(redis_store, TWO, owner=Owner(7, 1))
    assert redis_client.ttl("user:7:sessions") > TTL


def test_renewed_session_extends_the_ttl_of_the_index(
    redis_store: RedisSessionStore, redis_client: redis.Redis, multiplexed: MultiplexedRedis
) -> None:
    """The index may have been written by an instance with a shorter SESSION_MAX_AGE, or have expired already."""
    earlier = RedisSessionStore(redis_client, multiplexed, TTL)
    create(earlier, ONE, owner=Owner(7, 1))
    assert redis_store.merge(ONE, {"name": FieldChange(b"other")}, 2 * TTL, 7)
    assert redis_client.ttl("user:7:sessions") > redis_client.ttl(ONE) > TTL
    assert earlier.merge(ONE, {"name": FieldChange(b"another")}, TTL, 7)
    assert redis_client.ttl("user:7:sessions") > 2 * TTL  # never shortened
    redis_client.delete("user:7:sessions")
    assert redis_store.merge(ONE, {"name": FieldChange(b"other")}, TTL, 7)
    assert list(redis_store.records_of_user(7)) == [ONE]
    assert redis_store.destroy_all(7, keep=None) == 1


def test_renewal_does_not_list_a_destroyed_session(redis_store: RedisSessionStore, redis_client: redis.Redis) -> None:
    assert not redis_store.merge(ONE, {"name": FieldChange(b"other")}, TTL, 7)
    assert not redis_client.exists("user:7:sessions")


def test_index_does_not_grow_with_destroyed_sessions(redis_store: RedisSessionStore, redis_client: redis.Redis) -> None:
    create_and_end(redis_store, Owner(7, 1), 2 * MAX_SESSIONS_PER_USER)
    assert redis_client.zcard("user:7:sessions") <= MAX_SESSIONS_PER_USER


def test_destroyed_sessions_do_not_count_in_redis(redis_store: RedisSessionStore, redis_client: redis.Redis) -> None:
    create(redis_store, ONE, owner=Owner(7, 1))
    redis_client.zadd("user:7:sessions", {ONE: 1})  # some time ago
    create_and_end(redis_store, Owner(7, 1), MAX_SESSIONS_PER_USER + 1)
    assert redis_store.load(ONE) == FIELDS


def test_replaced_session_is_removed_from_the_index(redis_store: RedisSessionStore, redis_client: redis.Redis) -> None:
    create(redis_store, ONE, owner=Owner(7, 1))
    create(redis_store, TWO, owner=Owner(7, 1), replaces=ONE)
    assert redis_client.zrange("user:7:sessions", 0, -1) == [TWO.encode()]


def test_record_is_not_created_for_a_deleted_account(redis_store: RedisSessionStore) -> None:
    redis_store.destroy_all(7, keep=None, password_version=PASSWORD_VERSION_OF_DELETED_ACCOUNT)
    assert not create(redis_store, ONE, owner=Owner(7, 10**9))
    assert redis_store.load(ONE) is None


def test_password_version_never_decreases(redis_store: RedisSessionStore) -> None:
    redis_store.destroy_all(7, keep=None, password_version=3)
    redis_store.destroy_all(7, keep=None, password_version=2)
    assert not create(redis_store, ONE, owner=Owner(7, 2))


def test_each_method_is_one_round_trip_and_keys_contain_no_session_id(
    redis_store: RedisSessionStore, redis_server: RedisServer
) -> None:
    session_id = os.urandom(16).hex()
    key = record_key(session_id)
    create(redis_store, key)  # the scripts are known after their first call
    redis_store.merge(key, {"name": FieldChange(b"1")}, None)
    with redis_server.commands() as commands:
        create(redis_store, key)
        redis_store.load(key)
        redis_store.merge(key, {"name": FieldChange(b"2")}, TTL)
        redis_store.destroy(key)
    sent = [command.text for command in commands if command.client != "lua"]
    assert [text.split()[0] for text in sent] == ["EVALSHA", "HGETALL", "EVALSHA", "DEL"]
    assert session_id.encode() not in redis_server.dump()


# Only Redis Cluster.


@pytest.fixture
def cluster_store(cluster_client: redis.Redis, cluster_commands: RedisCommands) -> RedisSessionStore:
    return RedisSessionStore(cluster_client, cluster_commands, MAX_AGE)


@pytest.fixture
def impatient_store(cluster_store: RedisSessionStore, three_masters: RedisCluster) -> Iterator[RedisSessionStore]:
    """A store for the same sessions that gives up a master soon."""
    with clients_of(three_masters.url, timeout=LOST_AFTER_SECONDS) as connect_one:
        client = connect_one()
        commands = share_connection(client)
        store = RedisSessionStore(client, commands, MAX_AGE)
        assert store.existing([record_key("nobody")]) == set()  # now it knows the masters, and fails only at the lost one
        yield store
        commands.close()


@pytest.fixture
def copied(redis_store: RedisSessionStore, redis_client: redis.Redis, cluster_client: redis.Redis) -> str:
    """A session of user 7 that was copied from a single server, with the list of this user's sessions."""
    create(redis_store, ONE, owner=Owner(7, 1))
    create(redis_store, TWO, owner=Owner(7, 1))
    for name, ttl in ((ONE, TTL), ("user:7:sessions", 2 * TTL)):  # TWO has expired
        cluster_client.restore(name, 1000 * ttl, redis_client.dump(name) or b"")
    return ONE


def new_key(store: SessionStore, owner: Owner) -> str:
    return record_key(store.new_id(owner))


def test_records_of_a_user_are_named_by_a_hash_tag(cluster_store: RedisSessionStore) -> None:
    assert new_key(cluster_store, Owner(7, 1)).startswith("session:{user:7}:")
    assert cluster_store.new_id(None).count(".") == 0


def test_masters_have_equal_shares_of_the_sessions(cluster_store: RedisSessionStore) -> None:
    """100,000 sessions: of 25,000 users with two sessions each, and of nobody."""
    ids = [cluster_store.new_id(Owner(number // 2, 1) if number < 50_000 else None) for number in range(100_000)]
    shares = Counter(3 * slot_of_key(record_key(session_id)) // SLOTS for session_id in ids)
    assert len(shares) == 3
    assert max(shares.values()) < 40_000


def test_copied_session_is_read_changed_and_ended(cluster_store: RedisSessionStore, copied: str) -> None:
    assert cluster_store.load(copied) == FIELDS
    assert cluster_store.merge(copied, {"name": FieldChange(b"other")}, None)
    assert cluster_store.load(copied) == {"name": b"other", ".created": b"1"}
    assert cluster_store.existing([copied, TWO]) == {copied}
    cluster_store.destroy(copied)
    assert not cluster_store.merge(copied, {"name": FieldChange(b"back")}, TTL, 7)
    assert cluster_store.load(copied) is None


def test_lost_master_leaves_the_sessions_of_other_masters_alone(
    cluster_store: RedisSessionStore, cluster_client: ClusterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [new_key(cluster_store, Owner(number, 1)) for number in range(20)]
    for key in keys[::2]:
        create(cluster_store, key)
    assert cluster_store.existing(keys) == set(keys[::2])
    masters = {key: cluster_client.topology.owner(slot_of_key(key)) for key in keys}
    lost = {masters[keys[0]]}
    execute_on = ClusterPipeline._execute_on

    def fail_on_lost(self: ClusterPipeline, address: NodeAddress, *arguments: Any) -> list[Any]:
        if address in lost:
            raise redis.ConnectionError
        return execute_on(self, address, *arguments)

    monkeypatch.setattr(ClusterPipeline, "_execute_on", fail_on_lost)
    unknown = {key for key in keys if masters[key] in lost}
    assert unknown < set(keys)
    assert cluster_store.existing(keys) == {*keys[::2], *unknown}
    lost.update(masters.values())
    with pytest.raises(Unavailable):
        cluster_store.existing(keys)


def test_copied_session_is_listed_beside_new_ones(cluster_store: RedisSessionStore, copied: str) -> None:
    new = new_key(cluster_store, Owner(7, 1))
    create(cluster_store, new, owner=Owner(7, 1))
    assert cluster_store.records_of_user(7) == {new: FIELDS, copied: FIELDS}
    assert cluster_store.records_of_user(8) == {}


@pytest.mark.parametrize("kept", ["copied", "new", None])
def test_all_sessions_end_with_copied_ones(cluster_store: RedisSessionStore, copied: str, kept: str | None) -> None:
    new = new_key(cluster_store, Owner(7, 1))
    create(cluster_store, new, owner=Owner(7, 1))
    keep = {"copied": copied, "new": new, None: None}[kept]
    assert cluster_store.destroy_all(7, keep=keep, password_version=2) == (1 if kept else 2)
    assert set(cluster_store.records_of_user(7)) == ({keep} if kept else set())


def test_used_copied_session_stays_in_its_list(
    cluster_store: RedisSessionStore, cluster_client: redis.Redis, copied: str
) -> None:
    """The sessions of a larger SESSION_MAX_AGE outlive a list that was copied before."""
    assert cluster_store.merge(copied, {"name": FieldChange(b"other")}, 3 * TTL, 7)
    assert cluster_client.ttl("user:7:sessions") > cluster_client.ttl(copied) > 2 * TTL
    cluster_client.expire("user:7:sessions", 2 * MAX_AGE)
    assert cluster_store.merge(copied, {"name": FieldChange(b"another")}, TTL, 7)
    assert cluster_client.ttl("user:7:sessions") > MAX_AGE  # never shortened


@contextmanager
def not_answering(cluster: RedisCluster, key: str) -> Iterator[None]:
    """Keep the master of a key from answering while the block runs, like a master that is lost."""
    node = cluster.master_of(key)
    node.freeze()
    try:
        yield
    finally:
        node.resume()
        cluster.wait_until_whole()


def key_elsewhere(cluster: RedisCluster, key: str) -> str:
    """Return the key of a session of nobody that another master holds."""
    keys = (record_key(str(number)) for number in itertools.count())
    return next(other for other in keys if cluster.master_of(other) is not cluster.master_of(key))


def test_failed_sign_in_leaves_no_session(
    cluster_store: RedisSessionStore, impatient_store: RedisSessionStore, three_masters: RedisCluster
) -> None:
    """The record that the new one replaces cannot be destroyed, because its master does not answer."""
    new = new_key(cluster_store, Owner(7, 1))
    replaced = key_elsewhere(three_masters, new)
    create(cluster_store, replaced)
    with not_answering(three_masters, replaced), pytest.raises(Unavailable):
        create(impatient_store, new, owner=Owner(7, 1), replaces=replaced)
    assert cluster_store.load(new) is None
    assert cluster_store.records_of_user(7) == {}


def test_sessions_end_although_the_list_of_copied_ones_cannot_be_read(
    cluster_store: RedisSessionStore, impatient_store: RedisSessionStore, three_masters: RedisCluster
) -> None:
    """The error says that a copied session may be left."""
    user_id = next(number for number in itertools.count() if are_apart(three_masters, number))
    owner = Owner(user_id, 1)
    new = new_key(cluster_store, owner)
    create(cluster_store, new, owner=owner)
    with not_answering(three_masters, f"user:{user_id}:sessions"):
        with pytest.raises(Unavailable):
            impatient_store.destroy_all(user_id, keep=None, password_version=2)
        assert cluster_store.load(new) is None
        assert not create(cluster_store, new, owner=owner)


def are_apart(cluster: RedisCluster, user_id: int) -> bool:
    """Return whether different masters hold the list of a user's sessions and that of the copied ones."""
    return cluster.master_of(f"user:{user_id}:sessions") is not cluster.master_of(f"{{user:{user_id}}}:sessions")


def test_copied_session_is_saved_although_its_list_cannot_be_extended(
    cluster_store: RedisSessionStore, impatient_store: RedisSessionStore, three_masters: RedisCluster
) -> None:
    copied = key_elsewhere(three_masters, "user:7:sessions")
    create(cluster_store, copied)
    with not_answering(three_masters, "user:7:sessions"):
        assert impatient_store.merge(copied, {"name": FieldChange(b"other")}, TTL, 7)
        assert cluster_store.load(copied) == {"name": b"other", ".created": b"1"}


def test_copied_session_is_replaced_by_a_sign_in(cluster_store: RedisSessionStore, copied: str) -> None:
    new = new_key(cluster_store, Owner(7, 1))
    assert create(cluster_store, new, owner=Owner(7, 1), replaces=copied)
    assert list(cluster_store.records_of_user(7)) == [new]


def test_keys_in_use_are_counted_on_all_masters(cluster_store: RedisSessionStore, copied: str) -> None:
    assert copied
    for number in range(30):
        cluster_store.create(record_key(str(number)), {"name": sealed(b"n" * 32)}, TTL, None, None)
    assert Counter(cluster_store.key_ids_in_use()) == {frozenset({key_id(b"n" * 32)}): 30, frozenset(): 1}


def test_keys_in_use_are_not_counted_while_slots_move(
    cluster_store: RedisSessionStore, cluster_client: redis.Redis, three_masters: RedisCluster
) -> None:
    """A scan that comes to the old master of a session too late and to the new one too early misses the session."""
    slot = slot_of_key("{user:7}")
    keys = [new_key(cluster_store, Owner(7, 1)) for _ in range(4)]
    for key in keys:
        create(cluster_store, key)
    source = three_masters.master_of(slot)
    target = next(node for node in three_masters.masters() if node is not source)

    def check() -> None:
        with pytest.raises(Unavailable):
            list(cluster_store.key_ids_in_use())

    three_masters.migrate_slot(slot, target, halfway=check)
    three_masters.wait_until_whole()
    scan = cluster_client.scan_iter()
    next(scan)
    three_masters.migrate_slot(slot, source)
    three_masters.wait_until_whole()
    with pytest.raises(redis.RedisError, match="moved"):
        list(scan)
    wait_until(lambda: _count_or_none(cluster_store) == 4, what="all records to be counted")


def _count_or_none(store: SessionStore) -> int | None:
    try:
        return len(list(store.key_ids_in_use()))
    except Unavailable:
        return None


def test_session_copied_from_a_cluster_is_listed_and_ended(
    redis_store: RedisSessionStore, cluster_store: RedisSessionStore, redis_client: redis.Redis, cluster_client: redis.Redis
) -> None:
    owner = Owner(7, 1)
    key = new_key(cluster_store, owner)
    create(cluster_store, key, owner=owner)
    for name in (key, "{user:7}:sessions"):
        redis_client.restore(name, 0, cluster_client.dump(name) or b"")
    assert redis_store.merge(key, {"name": FieldChange(b"other")}, TTL, 7)
    assert list(redis_store.records_of_user(7)) == [key]
    assert redis_store.destroy_all(7, keep=None) == 1
    assert redis_store.load(key) is None


# Concurrent requests, on one server and on a cluster.


@pytest.fixture(params=["redis_store", "cluster_store"])
def each_redis(request: pytest.FixtureRequest) -> RedisSessionStore:
    found: RedisSessionStore = request.getfixturevalue(request.param)
    return found


def test_concurrent_sign_ins_keep_the_maximum_number_of_sessions(each_redis: RedisSessionStore) -> None:
    owner = Owner(7, 1)
    with ThreadPoolExecutor(8) as executor:
        keys = [new_key(each_redis, owner) for _ in range(MAX_SESSIONS_PER_USER + 50)]
        assert all(executor.map(lambda key: create(each_redis, key, owner=owner), keys))
    assert len(each_redis.records_of_user(7)) == MAX_SESSIONS_PER_USER


def test_no_session_of_an_old_password_is_left_by_concurrent_sign_ins(each_redis: RedisSessionStore) -> None:
    owner = Owner(7, 1)
    keys = [new_key(each_redis, owner) for _ in range(80)]
    with ThreadPoolExecutor(8) as executor:
        sign_ins = [executor.submit(create, each_redis, key, owner=owner) for key in keys]
        ended = executor.submit(each_redis.destroy_all, 7, keep=None, password_version=2).result()
    assert ended == sum(sign_in.result() for sign_in in sign_ins)
    assert each_redis.existing(keys) == set()
    assert each_redis.records_of_user(7) == {}
