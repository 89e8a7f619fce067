"""Connections to an address that leads to another server after a failover."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from app.core import config
from app.redis import failover
from app.redis.client import connect
from harness.processes import wait_until
from harness.redirection import Redirection
from harness.servers import RedisServer, fleet_environment
from tests.unit.conftest import UNUSED_DATABASE_URL


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[RedisServer, RedisServer]]:
    with RedisServer() as first, RedisServer() as second:
        yield first, second


@pytest.fixture
def address(servers: tuple[RedisServer, RedisServer]) -> Iterator[Redirection]:
    """An address that leads to the first server, the primary of the second."""
    first, second = servers
    for server, primary in ((first, None), (second, first)):
        with server.client() as client:
            client.replicaof("127.0.0.1", primary.port) if primary else client.replicaof("NO", "ONE")
    with Redirection(first.port) as address:
        yield address


@pytest.fixture
def client(address: Redirection, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    monkeypatch.setattr(failover, "CHECK_INTERVAL_SECONDS", -1)
    client = connect(config.load(fleet_environment(f"redis://127.0.0.1:{address.port}", UNUSED_DATABASE_URL)), "test")
    assert client.set("key", "value")
    yield client
    client.close()


def demote(former: RedisServer, primary: RedisServer) -> None:
    with primary.client() as other:
        other.replicaof("NO", "ONE")
    with former.client() as other:
        other.replicaof("127.0.0.1", primary.port)


def can_write(client: redis.Redis) -> bool:
    try:
        return bool(client.set("key", "other"))
    except redis.RedisError:
        return False


def test_all_connections_leave_a_former_primary(
    servers: tuple[RedisServer, RedisServer], address: Redirection, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = servers
    subscriber, writer = [client.connection_pool.get_connection() for _ in range(2)]
    client.connection_pool.release(writer)
    subscriber.send_command("SUBSCRIBE", "channel")  # type: ignore[no-untyped-call]
    assert subscriber.read_response()[0] == b"subscribe"
    demote(first, second)
    address.target = second.port
    with pytest.raises(redis.exceptions.ReadOnlyError):
        client.set("key", "other")
    with pytest.raises(redis.ConnectionError):
        subscriber.read_response(timeout=5)
    client.connection_pool.release(subscriber)
    wait_until(lambda: can_write(client), what="a connection to the new primary")
    assert client.info("server")["tcp_port"] == second.port
    assert "closed the connections to a former primary of Redis: it refuses writes (READONLY)" in caplog.messages


def test_connections_to_a_server_that_stays_read_only_are_kept(
    servers: tuple[RedisServer, RedisServer], address: Redirection, client: redis.Redis
) -> None:
    first, second = servers
    connection_id = client.client_id()
    demote(first, second)
    with first.client() as other:
        checks = other.info("commandstats").get("cmdstat_role", {"calls": 0})["calls"]
        assert not can_write(client)
        wait_until(lambda: other.info("commandstats").get("cmdstat_role", {"calls": 0})["calls"] > checks, what="the check")
    assert client.get("key") == b"value"
    assert client.client_id() == connection_id
