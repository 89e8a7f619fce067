"""The keys of all scripts but those of the registry: on a Redis Cluster the keys of a call have one slot, and no key is empty."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis

from app.analytics.intake import RedisIntake
from app.analytics.person import AnalyticsAccount, ConsentState
from app.auth.limits import RedisRateLimiter
from app.core.config_parsers import RateLimit
from app.core.keyring import Keyring
from app.jobs.broker import JobQueues, redis_broker
from app.redis.client import PooledRedis
from app.redis.cluster import slot_of_key
from app.sessions.redis_store import RedisSessionStore
from app.sessions.store import FieldChange, Owner, record_key
from harness.redis_cluster import RedisCluster
from harness.servers import Command, RedisServer
from tests.unit.analytics.conftest import event

ADA = Owner(7, 1)
FIELDS = {"name": b"value"}


def use_sessions(client: redis.Redis) -> None:
    store = RedisSessionStore(client, PooledRedis(client), 1000)
    anonymous, first, second = (record_key(store.new_id(owner)) for owner in (None, ADA, ADA))
    store.create(anonymous, FIELDS, 100, None, None)
    store.create(first, FIELDS, 100, ADA, anonymous)
    store.create(second, FIELDS, 100, ADA, first)
    store.create(first, FIELDS, 100, ADA, None)
    store.merge(first, {"name": FieldChange(b"other")}, 100, 7)
    store.merge(first, {"name": FieldChange(b"another")}, None)
    store.destroy_all(7, keep=first)
    store.destroy_all(7, keep=None, password_version=2)


def use_limits(client: redis.Redis) -> None:
    limiter = RedisRateLimiter(client, Keyring("signing", (b"s" * 32,)))
    buckets = {"login:account:ada@example.org": RateLimit(1, 60), "login:address:192.0.2.1": RateLimit(1, 60)}
    for token in ("one", "two"):
        limiter.acquire(buckets, token)
    limiter.release(buckets, "one")


def use_analytics(client: redis.Redis) -> None:
    intake, consent = RedisIntake(client, PooledRedis(client)), ConsentState("a1", version=0, is_granted=True)
    for person in map(AnalyticsAccount, range(20)):
        intake.accept(person, consent, [event()])
        intake.begin_consent_change(person, 1)
        intake.commit_consent(person, consent)


def use_jobs(client: redis.Redis) -> None:
    queues = JobQueues(redis_broker(client))
    queues.analyses.send(1)
    queues.exports.send(2, delay_seconds=5)


def keys_of_calls(commands: list[Command]) -> Iterator[list[str]]:
    """Yield the keys of each call of a script that has keys."""
    for command in commands:
        words = command.text.split(" ")
        if words[0] == "EVALSHA" and (keys := words[3 : 3 + int(words[2])]):
            yield keys


@pytest.fixture
def used(cluster_client: redis.Redis, three_masters: RedisCluster) -> list[Command]:
    """The commands of everything that uses scripts, on all masters. Each script is already known to them."""
    use_all(cluster_client)
    with ExitStack() as stack:
        recorded = [stack.enter_context(node.commands()) for node in three_masters.nodes]
        use_all(cluster_client)
    return [command for commands in recorded for command in commands]


def use_all(client: redis.Redis) -> None:
    for use in (use_sessions, use_limits, use_analytics, use_jobs):
        use(client)


def test_keys_of_a_call_have_one_slot_on_a_cluster(used: list[Command]) -> None:
    calls = list(keys_of_calls(used))
    assert len(calls) > 70
    for keys in calls:
        assert all(keys), keys
        assert len({slot_of_key(key) for key in keys}) == 1, keys


def test_no_key_is_empty_on_one_server(redis_client: redis.Redis, redis_server: RedisServer) -> None:
    use_all(redis_client)
    with redis_server.commands() as commands:
        use_all(redis_client)
    calls = list(keys_of_calls(commands))
    assert len(calls) > 70
    assert all(all(keys) for keys in calls)
