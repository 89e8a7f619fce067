from __future__ import annotations

from app.adapters import Adapters, choose
from app.auth.limits import MemoryRateLimiter, RedisRateLimiter
from app.core import config, instance
from app.core.config import Config
from app.core.keyring import Keyring
from app.database.engine import Database
from app.fleet.vitals import Vitals
from app.server.lifecycle import Lifecycle
from app.sessions.redis_store import RedisSessionStore
from app.sessions.sql_store import SqlSessionStore


def chosen(configured: Config, database: Database, lifecycle: Lifecycle) -> Adapters:
    rings = [Keyring("encryption", (b"e" * 32,)), Keyring("signing", (b"s" * 32,))]
    vitals = Vitals(instance.current(), lifecycle, "fingerprint", dict, lambda: 0)
    return choose(configured, instance.current(), database, rings, lifecycle, vitals)


def test_an_embedded_instance_needs_no_server(embedded: dict[str, str], database: Database) -> None:
    lifecycle = Lifecycle()
    adapters = chosen(config.load(embedded), database, lifecycle)
    assert isinstance(adapters.sessions, SqlSessionStore)
    assert isinstance(adapters.limiter, MemoryRateLimiter)
    assert adapters.probes == []
    assert lifecycle.check_readiness() == []
    adapters.refresh_keys()


def test_a_fleet_shares_redis(fleet_config: Config, database: Database) -> None:
    lifecycle = Lifecycle()
    adapters = chosen(fleet_config, database, lifecycle)
    assert isinstance(adapters.sessions, RedisSessionStore)
    assert isinstance(adapters.limiter, RedisRateLimiter)
    (probe,) = adapters.probes
    probe.probe()
    assert (probe.name, probe.status) == ("redis", "pass")
    assert lifecycle.stop(lifecycle.drain(), 1)


def test_an_instance_of_a_fleet_is_ready_when_it_has_reached_the_registry(fleet_config: Config, database: Database) -> None:
    lifecycle = Lifecycle()
    adapters = chosen(fleet_config, database, lifecycle)
    not_reached, not_heard = "redis: the registry has not been reached yet", "redis: the message queue is not heard"
    assert set(lifecycle.check_readiness()) == {not_reached, not_heard}
    adapters.refresh_keys()
    not_compared = "database: has not been compared with what the others use yet"
    assert set(lifecycle.check_readiness()) == {not_heard, not_compared}  # which takes the greenlets of an instance
    assert lifecycle.stop(lifecycle.drain(), 1)
