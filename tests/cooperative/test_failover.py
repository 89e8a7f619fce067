"""The connections of an instance to an address that leads to another server after a failover."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import gevent
import pytest
import redis

from app.core import config
from app.core.keyring import Keyring
from app.core.messages import ALL_INSTANCES
from app.realtime.envelope import channel_of
from app.realtime.message_queue import RedisMessageQueue
from app.redis import failover
from app.redis.client import connect
from app.redis.multiplexed import MultiplexedRedis
from harness.greenlets import until
from harness.redirection import Redirection
from harness.servers import RedisServer, fleet_environment
from tests.unit.conftest import UNUSED_DATABASE_URL


class Failover:
    """Two servers, an address that leads to the first until a failover, and the client of an instance."""

    def __init__(self, stack: ExitStack) -> None:
        self.former, self.primary = [stack.enter_context(RedisServer()) for _ in range(2)]
        self.address = stack.enter_context(Redirection(self.former.port))
        settings = config.load(fleet_environment(f"redis://127.0.0.1:{self.address.port}", UNUSED_DATABASE_URL))
        self.client = connect(settings, "test")
        stack.callback(self.client.close)

    def begin(self) -> None:
        self.address.target = self.primary.port
        with self.former.client() as former:
            former.replicaof("127.0.0.1", self.primary.port)


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Failover]:
    monkeypatch.setattr(failover, "CHECK_INTERVAL_SECONDS", -1)
    with ExitStack() as stack:
        yield Failover(stack)


def check_that_writes_follow(client: redis.Redis, fail_over: Callable[[], None], primary: RedisServer) -> None:
    """After a failover, one write gets READONLY, and the shared connection of the client then leads to the new primary."""
    shared = MultiplexedRedis(client)
    assert shared.execute("SET", "key", "value") == b"OK"
    fail_over()
    with pytest.raises(redis.exceptions.ReadOnlyError):
        shared.execute("SET", "key", "other")
    until(lambda: shared._connection is None)
    assert shared.execute("SET", "key", "other") == b"OK"
    with primary.client() as connection:
        assert connection.get("key") == "other"
    shared.close()


def test_shared_connection_leaves_a_former_primary(replaced: Failover) -> None:
    check_that_writes_follow(replaced.client, replaced.begin, replaced.primary)


def test_shared_connection_to_a_read_only_server_is_kept(replaced: Failover) -> None:
    shared = MultiplexedRedis(replaced.client)
    shared.execute("SET", "key", "value")
    connection = shared._connection
    with replaced.former.client() as former:
        former.replicaof("127.0.0.1", 1)
        with pytest.raises(redis.exceptions.ReadOnlyError):
            shared.execute("SET", "key", "other")
        until(lambda: "cmdstat_role" in former.info("commandstats"))
    gevent.sleep(0)
    assert shared.execute("GET", "key") == b"value"
    assert shared._connection is connection
    shared.close()


def test_message_queue_leaves_a_former_primary(replaced: Failover) -> None:
    """It gets no READONLY itself, because a replica accepts subscriptions; another command of its client does."""
    queue = RedisMessageQueue(replaced.client, Keyring("signing", (b"s" * 32,)))
    heartbeat = MultiplexedRedis(replaced.client)
    heartbeat.execute("SET", "key", "value")
    running = gevent.spawn(queue.run)
    until(lambda: queue.not_ready_reason() is None)
    replaced.begin()
    with pytest.raises(redis.exceptions.ReadOnlyError):
        heartbeat.execute("SET", "key", "other")
    channel = channel_of(ALL_INSTANCES)
    with replaced.primary.client() as primary:
        until(lambda: dict(primary.pubsub_numsub(channel))[channel] == 1)
    running.kill()
    heartbeat.close()
