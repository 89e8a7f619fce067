from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import gevent
import pytest
import redis

from app.core import config
from app.core.keyring import Keyring
from app.core.messages import ALL_INSTANCES
from app.realtime.envelope import channel_of
from app.realtime.message_queue import RedisMessageQueue
from app.redis.client import connect, sentinels_of
from app.redis.multiplexed import MultiplexedRedis
from app.redis.sentinel import Sentinels
from harness.fake_sentinel import SERVICE, FakeSentinel
from harness.greenlets import until
from harness.lateness import measured_lateness
from harness.servers import RedisServer, fleet_environment
from tests.cooperative.test_failover import check_that_writes_follow
from tests.unit.conftest import UNUSED_DATABASE_URL

LONGEST_PAUSE_SECONDS = 0.2  # of the event loop; a sentinel that hangs is waited for twice as long


class Watched:
    """Two servers, a sentinel that names the first as the primary, and the client of an instance."""

    def __init__(self, stack: ExitStack) -> None:
        self.first, self.second = [stack.enter_context(RedisServer()) for _ in range(2)]
        self.fake = stack.enter_context(FakeSentinel(self.first.port))
        url = f"redis+sentinel://127.0.0.1:{self.fake.port}/{SERVICE}"
        settings = config.load(fleet_environment(url, UNUSED_DATABASE_URL))
        sentinels = sentinels_of(settings)
        assert sentinels
        self.sentinels: Sentinels = sentinels
        stack.callback(sentinels.close)
        self.client = connect(settings, "test", sentinels=sentinels)
        stack.callback(self.client.close)


@pytest.fixture
def watched() -> Iterator[Watched]:
    with ExitStack() as stack:
        yield Watched(stack)


def test_shared_connection_leaves_a_server_that_refuses_a_write(watched: Watched) -> None:
    def fail_over() -> None:
        with watched.first.client() as first:
            first.replicaof("127.0.0.1", watched.second.port)
        watched.fake.primary_port = watched.second.port

    check_that_writes_follow(watched.client, fail_over, watched.second)


def test_message_queue_leaves_a_former_primary_that_still_answers(watched: Watched) -> None:
    queue = RedisMessageQueue(watched.client, Keyring("signing", (b"s" * 32,)))
    greenlets = [gevent.spawn(queue.run), gevent.spawn(watched.sentinels.run)]
    until(lambda: queue.not_ready_reason() is None)
    watched.fake.primary_port = watched.second.port
    with watched.second.client() as second:
        until(lambda: dict(second.pubsub_numsub(channel_of(ALL_INSTANCES)))[channel_of(ALL_INSTANCES)] == 1)
    gevent.killall(greenlets)


def test_event_loop_runs_while_sentinels_hang(watched: Watched) -> None:
    watched.fake.hangs = True
    pauses: list[float] = []

    def tick() -> None:
        while True:
            started = time.monotonic()
            gevent.sleep(0.01)
            pauses.append(time.monotonic() - started)

    with measured_lateness() as lateness:
        ticking = gevent.spawn(tick)
        for client in (watched.client, MultiplexedRedis(watched.client)):
            with pytest.raises(redis.ConnectionError):
                client.execute("PING") if isinstance(client, MultiplexedRedis) else client.ping()
        ticking.kill()
    assert max(pauses) < LONGEST_PAUSE_SECONDS + lateness.slack
