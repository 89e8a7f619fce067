from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from app.core import config
from app.core.config import Config
from app.redis.client import connect, sentinels_of
from app.redis.sentinel import ASK_SECONDS, SENTINEL_TIMEOUT_SECONDS, Sentinels
from harness.fake_sentinel import SERVICE, FakeSentinel
from harness.lateness import time_limit
from harness.processes import PATIENCE_SECONDS, wait_until
from harness.servers import RedisServer, fleet_environment, free_port
from tests.unit.conftest import UNUSED_DATABASE_URL

OLD, NEW = 1001, 1002  # ports that nobody is asked to connect to


@pytest.fixture
def fakes() -> Iterator[list[FakeSentinel]]:
    """Three sentinels that know the same."""
    with ExitStack() as stack:
        yield [stack.enter_context(FakeSentinel(OLD)) for _ in range(3)]


def config_for(fakes: list[FakeSentinel], service: str = SERVICE, login: str = "", **settings: str) -> Config:
    hosts = ",".join(f"127.0.0.1:{fake.port}" for fake in fakes)
    return config.load(fleet_environment(f"redis+sentinel://{login}{hosts}/{service}/0", UNUSED_DATABASE_URL, **settings))


Find = Callable[..., Sentinels]


@pytest.fixture
def of() -> Iterator[Find]:
    with ExitStack() as stack:

        def make(fakes: list[FakeSentinel], **options: Any) -> Sentinels:
            sentinels = sentinels_of(config_for(fakes, **options))
            assert sentinels is not None
            stack.callback(sentinels.close)
            return sentinels

        yield make


def test_newest_configuration_wins(fakes: list[FakeSentinel], of: Find) -> None:
    sentinels = of(fakes)
    assert sentinels.find_primary() == ("127.0.0.1", OLD)
    fakes[2].epoch, fakes[2].primary_port = 2, NEW  # the others have not heard of the failover yet
    assert sentinels.find_primary() == ("127.0.0.1", NEW)


def test_one_sentinel_is_enough(fakes: list[FakeSentinel], of: Find) -> None:
    sentinels = of(fakes)
    fakes[0].hangs = fakes[1].hangs = True
    with time_limit(2 * ASK_SECONDS, "the search"):
        assert sentinels.find_primary() == ("127.0.0.1", OLD)
    with time_limit(ASK_SECONDS / 2, "a search that need not wait again for sentinels that were late"):
        assert sentinels.find_primary() == ("127.0.0.1", OLD)


def test_sentinel_that_answers_again_is_waited_for_again(fakes: list[FakeSentinel], of: Find) -> None:
    sentinels = of(fakes[:1])
    fakes[0].hangs = True
    with pytest.raises(redis.ConnectionError, match="does not answer"):
        sentinels.find_primary()
    fakes[0].hangs = False

    def answers() -> bool:
        try:
            return sentinels.find_primary() == ("127.0.0.1", OLD)
        except redis.ConnectionError:
            return False

    wait_until(answers, what="the sentinel to answer")


def test_simultaneous_callers_share_one_question(fakes: list[FakeSentinel], of: Find) -> None:
    sentinels = of(fakes)
    fakes[0].hangs = True  # so that the question takes a while
    threads = [threading.Thread(target=sentinels.find_primary) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fakes[1].questions <= 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [("service", "knows no service 'other'"), ("hanging", "does not answer"), ("refused", "refused")],
)
def test_fault_is_named(fakes: list[FakeSentinel], of: Find, fault: str, message: str) -> None:
    if fault == "hanging":
        fakes[0].hangs = True
    if fault == "refused":
        fakes[0].port = free_port()
    sentinels = of(fakes[:1], service="other" if fault == "service" else SERVICE)
    with pytest.raises(redis.ConnectionError, match=message):
        sentinels.find_primary()


def test_outage_of_the_sentinels_is_logged_once(fakes: list[FakeSentinel], of: Find, caplog: pytest.LogCaptureFixture) -> None:
    fakes[0].hangs = True
    sentinels = of(fakes[:1])
    for _ in range(4):
        with pytest.raises(redis.ConnectionError):
            sentinels.find_primary()
    assert caplog.messages == [f"no sentinel names a primary: 127.0.0.1:{fakes[0].port} does not answer"]


def test_sentinels_have_the_password_of_the_servers_or_one_of_their_own(fakes: list[FakeSentinel], of: Find) -> None:
    of(fakes[:1], login="app:serverpass@").find_primary()
    of(fakes[:1], login="app:serverpass@", REDIS_SENTINEL_PASSWORD="sentinelpass").find_primary()
    of(fakes[:1]).find_primary()
    assert fakes[0].passwords == ["default serverpass", "default sentinelpass"]


class Pair:
    """Two servers and a sentinel that names the first as the primary."""

    def __init__(self, stack: ExitStack) -> None:
        self.first, self.second = [stack.enter_context(RedisServer()) for _ in range(2)]
        self.fake = stack.enter_context(FakeSentinel(self.first.port))

    def demote_first(self) -> None:
        with self.first.client() as client:
            client.replicaof("127.0.0.1", self.second.port)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(stack)


@pytest.fixture
def client(pair: Pair, of: Find) -> Iterator[redis.Redis]:
    """A client of the primary, which is the first server."""
    pair.fake.primary_port = pair.first.port
    with pair.first.client() as first:
        first.replicaof("NO", "ONE")
    client = connect(config_for([pair.fake]), "test", sentinels=of([pair.fake]))
    assert client.set("key", "value")
    yield client
    client.close()


def sentinels_used_by(client: redis.Redis) -> Sentinels:
    found = client.connection_pool.connection_kwargs["sentinels"]
    assert isinstance(found, Sentinels)
    return found


def test_all_connections_leave_a_server_that_refuses_a_write(pair: Pair, client: redis.Redis) -> None:
    reader, writer = [client.connection_pool.get_connection() for _ in range(2)]
    client.connection_pool.release(writer)
    pair.demote_first()
    pair.fake.primary_port = pair.second.port
    with pytest.raises(redis.ConnectionError):
        client.set("key", "other")
    with pytest.raises(redis.ConnectionError):
        reader.read_response(timeout=PATIENCE_SECONDS)
    client.connection_pool.release(reader)
    assert client.set("key", "other")
    assert client.info("server")["tcp_port"] == pair.second.port


def test_silent_connection_leaves_when_the_sentinels_name_another_server(pair: Pair, client: redis.Redis) -> None:
    subscriber = client.connection_pool.get_connection()
    subscriber.send_command("SUBSCRIBE", "channel")  # type: ignore[no-untyped-call]
    assert subscriber.read_response()[0] == b"subscribe"
    sentinels = sentinels_used_by(client)
    watcher = threading.Thread(target=sentinels.run)
    watcher.start()
    pair.fake.primary_port = pair.second.port  # the first is cut off from the sentinels, and still answers
    with pytest.raises(redis.ConnectionError):
        subscriber.read_response(timeout=PATIENCE_SECONDS)
    sentinels.stop()
    watcher.join()
    client.connection_pool.release(subscriber)


def test_primary_is_not_used_while_a_replica_is_promoted(pair: Pair, client: redis.Redis) -> None:
    reader = client.connection_pool.get_connection()
    sentinels_used_by(client)._on_promotion()
    with pytest.raises(redis.ConnectionError):
        reader.read_response(timeout=PATIENCE_SECONDS)
    client.connection_pool.release(reader)
    with pytest.raises(redis.ConnectionError, match="being made the primary"):
        client.ping()
    pair.fake.primary_port = pair.second.port
    assert client.info("server")["tcp_port"] == pair.second.port


def test_primary_is_used_again_if_no_replica_was_promoted(
    pair: Pair, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.redis.sentinel.PROMOTION_SECONDS", 0.0)
    sentinels_used_by(client)._on_promotion()
    assert client.ping()


def test_replica_is_not_used_although_a_sentinel_names_it(pair: Pair, client: redis.Redis) -> None:
    pair.demote_first()
    client.connection_pool.disconnect()
    with pytest.raises(redis.ConnectionError, match="is a replica"):
        client.ping()


def test_requests_never_wait_longer_than_the_time_limit_for_sentinels(fakes: list[FakeSentinel]) -> None:
    for fake in fakes:
        fake.hangs = True
    client = connect(config_for(fakes), "test")
    for _ in range(3):
        with time_limit(SENTINEL_TIMEOUT_SECONDS + 0.3, "the command"), pytest.raises(redis.ConnectionError):
            client.ping()
    client.close()


def test_missing_majority_is_a_warning(fakes: list[FakeSentinel], of: Find) -> None:
    sentinels = of(fakes)
    assert sentinels.find_warning() is None
    sentinels.find_primary()
    assert sentinels.find_warning() is None
    fakes[0].hangs = fakes[1].hangs = True
    sentinels.find_primary()
    assert sentinels.find_warning() == "too few sentinels answer for a failover: 1 of 3"
    assert sentinels.find_cause() is None
    fakes[2].hangs = True
    with pytest.raises(redis.ConnectionError):
        sentinels.find_primary()
    assert sentinels.find_cause() == "no sentinel names a primary; the log says why"
