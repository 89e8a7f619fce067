from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.realtime import queue as module
from app.realtime.queue import PREFIX, LocalQueue, RedisPublisher, RedisQueue
from app.realtime.rooms import EVERYWHERE
from app.sessions import cookie
from app.sessions.keyring import Keyring
from tests.unit.conftest import count_of

SIGNING = Keyring("signing", (b"s" * 32,))
ROTATED = Keyring("signing", (b"t" * 32, b"s" * 32))
FOREIGN = Keyring("signing", (b"f" * 32,))

Connect = Callable[[], redis.Redis]


class Ear:
    def __init__(self, queue: LocalQueue | RedisQueue, kind: str = "news") -> None:
        self.heard: list[Any] = []
        queue.on(kind, lambda message: self.heard.append(message["number"]))


@contextmanager
def listening(queue: RedisQueue) -> Iterator[None]:
    listener = gevent.spawn(queue.run)
    until(lambda: queue.obstacle() is None)
    yield
    listener.kill()


def listeners(client: redis.Redis) -> list[str]:
    """Connections that have subscribed, by their ids."""
    return [connection["id"] for connection in client.client_list(_type="pubsub") if connection["sub"] == "1"]


def until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.005)


def test_an_instance_that_is_alone_hears_itself() -> None:
    queue = LocalQueue()
    ear = Ear(queue)
    queue.publish("news", {"number": 1}, EVERYWHERE)
    assert ear.heard == [1]


def test_all_instances_hear_what_one_says_once_and_in_order(connect_redis: Connect) -> None:
    first, second = RedisQueue(connect_redis(), SIGNING), RedisQueue(connect_redis(), SIGNING)
    ears = [Ear(first), Ear(second)]
    with listening(first), listening(second):
        for number in range(100):
            first.publish("news", {"number": number}, EVERYWHERE)
        until(lambda: len(ears[1].heard) == 100)
    assert [ear.heard for ear in ears] == [list(range(100))] * 2


def test_a_process_that_is_no_instance_is_heard(connect_redis: Connect) -> None:
    queue = RedisQueue(connect_redis(), ROTATED)
    ear = Ear(queue)
    with listening(queue):
        RedisPublisher(connect_redis(), SIGNING).publish("news", {"number": 1}, EVERYWHERE)
        until(lambda: ear.heard == [1])


@pytest.mark.parametrize(
    "forged",
    [
        cookie.sign(FOREIGN, json.dumps({"method": "news", "host_id": "", "message": {"number": 1}}), "queue"),
        cookie.sign(SIGNING, json.dumps({"method": "news", "host_id": "", "message": {"number": 1}}), "session"),
        json.dumps({"method": "news", "host_id": "", "message": {"number": 1}}),
        b"\xff\x00",
        b"",
    ],
)
def test_what_this_fleet_did_not_sign_is_not_heard(connect_redis: Connect, forged: str | bytes) -> None:
    queue = RedisQueue(connect_redis(), SIGNING)
    ear = Ear(queue)
    with listening(queue):
        connect_redis().publish(PREFIX + EVERYWHERE, forged)
        RedisPublisher(connect_redis(), SIGNING).publish("news", {"number": 2}, EVERYWHERE)
        until(lambda: ear.heard)
    assert ear.heard == [2]


def test_a_handler_that_fails_does_not_end_the_listening(connect_redis: Connect) -> None:
    queue = RedisQueue(connect_redis(), SIGNING)
    ear = Ear(queue)
    queue.on("trouble", lambda _: 1 / 0)  # type: ignore[arg-type]
    with listening(queue):
        publisher = RedisPublisher(connect_redis(), SIGNING)
        publisher.publish("trouble", {}, EVERYWHERE)
        publisher.publish("news", {"number": 1}, EVERYWHERE)
        until(lambda: ear.heard == [1])


def test_an_instance_that_has_not_subscribed_yet_is_not_ready(connect_redis: Connect) -> None:
    queue = RedisQueue(connect_redis(), SIGNING)
    assert queue.obstacle() == "redis: the message queue is not heard"
    with listening(queue):
        assert queue.obstacle() is None


def test_a_connection_that_was_lost_is_made_again(connect_redis: Connect) -> None:
    queue = RedisQueue(connect_redis(), SIGNING)
    ear = Ear(queue)
    with listening(queue):
        client = connect_redis()
        (lost,) = listeners(client)
        client.client_kill_filter(_id=lost)
        until(lambda: listeners(client) not in ([], [lost]))
        RedisPublisher(client, SIGNING).publish("news", {"number": 1}, EVERYWHERE)
        until(lambda: ear.heard == [1])
        assert queue.obstacle() is None


def test_publishing_neither_waits_nor_grows(connect_redis: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OUTBOX", 5)
    queue = RedisQueue(connect_redis(), SIGNING)  # nobody sends what it takes
    ear = Ear(queue)
    lost = count_of("reporadar_queue_messages_lost_total")
    for number in range(8):
        queue.publish("news", {"number": number}, EVERYWHERE)
    assert count_of("reporadar_queue_messages_lost_total") - lost == 3
    assert ear.heard == list(range(8))


def test_without_redis_a_message_is_lost_and_counted(connect_redis: Connect) -> None:
    nowhere = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    lost = count_of("reporadar_queue_messages_lost_total")
    RedisPublisher(nowhere, SIGNING).publish("news", {"number": 1}, EVERYWHERE)
    nowhere.close()
    assert count_of("reporadar_queue_messages_lost_total") - lost == 1
