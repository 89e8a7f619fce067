from __future__ import annotations

import time

import pytest
import redis

from app.adapters import Adapters, RedisClients, choose, connect_redis, create_worker_monitor, redis_probes
from app.analytics.partitions import SINGLE
from app.auth.limits import MemoryRateLimiter, RedisRateLimiter
from app.core import config, instance
from app.core.config import Config
from app.core.keyring import Keyring
from app.database.engine import Database
from app.fleet.store import Registry
from app.fleet.vitals import Vitals
from app.fleet.worker_monitor import NO_WORKER
from app.health import redis_server
from app.jobs.monitor import JobMonitor
from app.jobs.task_record import KEY
from app.redis.client import PooledRedis
from app.redis.multiplexed import MultiplexedRedis
from app.server.lifecycle import Lifecycle
from app.sessions.redis_store import RedisSessionStore
from app.sessions.sql_store import SqlSessionStore
from harness.redis_cluster import RedisCluster
from harness.servers import fleet_environment
from tests.unit.conftest import UNUSED_DATABASE_URL, count_of


def choose_for(configured: Config, database: Database, lifecycle: Lifecycle) -> tuple[Adapters, RedisClients | None]:
    me = instance.current()
    keyrings = [Keyring("encryption", (b"e" * 32,)), Keyring("signing", (b"s" * 32,))]
    clients = connect_redis(configured, me.instance_id, lifecycle)
    vitals = Vitals(me, lifecycle, "fingerprint", dict)
    return choose(configured, me, database, clients, keyrings, lifecycle, vitals), clients


def test_embedded_mode_uses_no_server(embedded: dict[str, str], database: Database) -> None:
    lifecycle = Lifecycle()
    adapters, clients = choose_for(config.load(embedded), database, lifecycle)
    assert isinstance(adapters.sessions, SqlSessionStore)
    assert isinstance(adapters.limiter, MemoryRateLimiter)
    assert clients is None
    assert redis_probes(clients) == []
    assert lifecycle.check_readiness() == []
    adapters.refresh_keys()


def test_instances_of_a_fleet_share_redis(fleet_config: Config, database: Database) -> None:
    lifecycle = Lifecycle()
    adapters, clients = choose_for(fleet_config, database, lifecycle)
    assert isinstance(adapters.sessions, RedisSessionStore)
    assert isinstance(adapters.limiter, RedisRateLimiter)
    (probe,) = redis_probes(clients)
    probe.probe()
    assert (probe.name, probe.status) == ("redis", "pass")
    assert lifecycle.stop(lifecycle.drain(), 1)


def test_fleet_instance_becomes_ready_after_reaching_the_registry(fleet_config: Config, database: Database) -> None:
    lifecycle = Lifecycle()
    adapters, _ = choose_for(fleet_config, database, lifecycle)
    not_reached = "this instance has not reached the registry in Redis yet: check that Redis accepts writes"
    not_subscribed = "redis: not subscribed to the message queue"
    assert set(lifecycle.check_readiness()) == {not_reached, not_subscribed}
    adapters.refresh_keys()
    not_compared = (
        "this instance has not yet compared its database with that of the others:"
        " check that the database answers and has the table heartbeats"
    )
    assert set(lifecycle.check_readiness()) == {not_subscribed, not_compared}  # which takes the greenlets of an instance
    assert lifecycle.stop(lifecycle.drain(), 1)


def test_failed_closer_is_in_the_stop_that_the_fleet_records(
    fleet_config: Config, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifecycle = Lifecycle()
    adapters, clients = choose_for(fleet_config, database, lifecycle)
    assert clients
    adapters.refresh_keys()
    monkeypatch.setattr(clients.client.connection_pool, "close", _fail)
    assert not lifecycle.stop(lifecycle.drain(), 1)
    (stop,) = Registry(clients.with_long_timeout).stops()
    assert (stop["instance_id"], stop["kind"]) == (instance.current().instance_id, "forced")
    assert stop["summary"].endswith("(could not close redis)")


def test_warning_about_workers_does_not_stop_the_metrics_of_events(
    fleet_config: Config, database: Database, redis_client: redis.Redis
) -> None:
    lifecycle = Lifecycle()
    _, clients = choose_for(fleet_config, database, lifecycle)
    redis_client.hset(KEY, "sweep", f"5 {time.time() - 3600:.3f}")
    redis_client.xadd(SINGLE.stream, {"event": "new"})
    monitor = create_worker_monitor(clients, JobMonitor(database, {}))
    assert monitor
    monitor.check_once()
    assert monitor.warning == NO_WORKER
    assert count_of("reporadar_events_waiting") == 1
    assert lifecycle.stop(lifecycle.drain(), 1)


@pytest.mark.parametrize(
    ("setting", "bad", "good", "reason", "text"),
    [
        ("maxmemory", 1, 0, "out_of_memory", "out of memory: 1 of 3 masters: "),
        ("min-replicas-to-write", 1, 0, "too_few_replicas", "too few replicas: 1 of 3 masters: "),
        ("appendonly", "no", "yes", "appendonly_off", "appendonly is off: 1 of 3 masters: "),
    ],
)
def test_setting_of_one_master_of_a_cluster_is_a_warning(
    three_masters: RedisCluster,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    bad: str | int,
    good: str | int,
    reason: str,
    text: str,
) -> None:
    monkeypatch.setattr(redis_server, "INTERVAL_SECONDS", -1)
    lifecycle = Lifecycle()
    configured = config.load(fleet_environment(three_masters.url, UNUSED_DATABASE_URL))
    (probe,) = redis_probes(connect_redis(configured, "instance-1", lifecycle))
    probe.probe()
    assert probe.warning is None
    master = three_masters.masters()[1]
    master.call("CONFIG SET", setting, bad)
    try:
        for _ in range(5):  # it does not depend on the master that a command without a key goes to
            probe.probe()
            assert (probe.status, probe.reason) == ("warn", reason)
            assert str(probe.warning).startswith(text)
    finally:
        master.call("CONFIG SET", setting, good)
    probe.probe()
    assert probe.warning is None
    assert lifecycle.stop(lifecycle.drain(), 1)


@pytest.mark.parametrize(("setting", "expected"), [("true", MultiplexedRedis), ("false", PooledRedis)])
def test_shared_redis_connection_can_be_turned_off(redis_url: str, setting: str, expected: type) -> None:
    configured = config.load(fleet_environment(redis_url, UNUSED_DATABASE_URL, SHARED_REDIS_CONNECTION=setting))
    clients = connect_redis(configured, "instance-1", Lifecycle())
    assert clients
    assert type(clients.shared) is expected


def _fail() -> None:
    raise OSError("connection lost")
