from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.core.keyring import Keyring
from app.core.messages import ALL_INSTANCES, Message
from app.realtime import publisher as outgoing
from app.realtime import queue as module
from app.realtime import subscriptions
from app.realtime.envelope import EnvelopeCodec, channel_of, encode
from app.realtime.publisher import RedisPublisher
from app.realtime.queue import LocalQueue, RedisQueue
from app.sessions import cookie
from tests.unit.conftest import count_of

SIGNING = Keyring("signing", (b"s" * 32,))
ROTATED = Keyring("signing", (b"t" * 32, b"s" * 32))
FOREIGN = Keyring("signing", (b"f" * 32,))
ROOM, OTHER = "user:1", "user:2"

Connect = Callable[[], redis.Redis]


class Ear:
    def __init__(self, queue: LocalQueue | RedisQueue, kind: str = "news") -> None:
        self.heard: list[Any] = []
        queue.on(kind, lambda message: self.heard.append(message["number"]))


def news(*numbers: int, room: str = ALL_INSTANCES) -> list[Message]:
    return [Message(room, "news", {"number": number}) for number in numbers]


@contextmanager
def listening(queue: RedisQueue) -> Iterator[None]:
    listener = gevent.spawn(queue.run)
    until(lambda: queue.not_ready_reason() is None)
    yield
    listener.kill()


def listeners(client: redis.Redis) -> dict[str, int]:
    """Connections that have subscribed, by their ids, and to how many channels."""
    found = {connection["id"]: int(connection["sub"]) for connection in client.client_list(_type="pubsub")}
    return {one: count for one, count in found.items() if count}


def subscribers(client: redis.Redis, room: str) -> int:
    ((_, count),) = client.pubsub_numsub(channel_of(room))
    return int(count)


def until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.005)


def test_an_instance_that_is_alone_hears_itself() -> None:
    queue = LocalQueue()
    ear = Ear(queue)
    queue.publish(news(1))
    assert ear.heard == [1]


def test_all_instances_hear_what_one_says_once_and_in_order(connect_redis: Connect) -> None:
    first, second = RedisQueue(connect_redis(), SIGNING), RedisQueue(connect_redis(), SIGNING)
    ears = [Ear(first), Ear(second)]
    with listening(first), listening(second):
        for number in range(100):
            first.publish(news(number))
        until(lambda: len(ears[1].heard) == 100)
    assert [ear.heard for ear in ears] == [list(range(100))] * 2


def test_a_process_that_is_no_instance_is_heard(connect_redis: Connect) -> None:
    queue = RedisQueue(connect_redis(), ROTATED)
    ear = Ear(queue)
    with listening(queue):
        RedisPublisher(connect_redis(), SIGNING).publish(news(1, 2))
        until(lambda: ear.heard == [1, 2])


@pytest.mark.parametrize(
    "forged",
    [
        EnvelopeCodec(FOREIGN).seal([encode(("news", {"number": 1}))]),
        bytes(32) + EnvelopeCodec(SIGNING).seal([encode(("news", {"number": 1}))])[32:],
        cookie.sign(SIGNING, json.dumps([["news", {"number": 1}]]), "queue"),
        json.dumps([["news", {"number": 1}]]),
        b"\xff\x00",
        b"",
    ],
)
def test_what_this_fleet_did_not_sign_is_not_heard(connect_redis: Connect, forged: str | bytes) -> None:
    queue = RedisQueue(connect_redis(), SIGNING)
    ear = Ear(queue)
    with listening(queue):
        connect_redis().publish(channel_of(ALL_INSTANCES), forged)
        RedisPublisher(connect_redis(), SIGNING).publish(news(2))
        until(lambda: ear.heard)
    assert ear.heard == [2]


def test_a_handler_that_fails_does_not_end_the_listening(connect_redis: Connect) -> None:
    queue = RedisQueue(connect_redis(), SIGNING)
    ear = Ear(queue)
    queue.on("trouble", lambda _: 1 / 0)  # type: ignore[arg-type]
    with listening(queue):
        RedisPublisher(connect_redis(), SIGNING).publish([Message(ALL_INSTANCES, "trouble", {}), *news(1)])
        until(lambda: ear.heard == [1])


def test_what_comes_at_once_leaves_others_their_turn(connect_redis: Connect) -> None:
    queue = RedisQueue(connect_redis(), SIGNING)
    waiting = 0
    most = 0

    def hear(_: dict[str, Any]) -> None:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)

    def write() -> None:
        nonlocal waiting
        while True:
            gevent.sleep(0)
            waiting = 0

    queue.on("news", hear)
    writing = gevent.spawn(write)
    with listening(queue):
        RedisPublisher(connect_redis(), SIGNING).publish([*news(*range(400)), Message(ALL_INSTANCES, "over", {})])
        over: list[object] = []
        queue.on("over", over.append)
        until(lambda: over)
    writing.kill()
    assert 0 < most <= module.HEARD_AT_ONCE


# Rooms


def test_who_hosts_nobody_in_a_room_is_sent_nothing(connect_redis: Connect) -> None:
    publisher, host, bystander = (RedisQueue(connect_redis(), SIGNING) for _ in range(3))
    ears = [Ear(host), Ear(bystander)]
    client = connect_redis()
    with listening(publisher), listening(host), listening(bystander):
        host.join(ROOM)
        host.wait_until_joined(ROOM)
        bystander.join(OTHER)
        bystander.wait_until_joined(OTHER)
        assert subscribers(client, ROOM) == subscribers(client, OTHER) == 1
        publisher.publish(news(*range(50), room=ROOM) + news(99, room=OTHER))
        until(lambda: len(ears[0].heard) == 50)
        until(lambda: ears[1].heard)
    assert [ear.heard for ear in ears] == [list(range(50)), [99]]


@pytest.fixture
def subscribing_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = module._commands

    def late(name: str, rooms: Sequence[str]) -> Iterator[tuple[str, ...]]:
        gevent.sleep(0.005)
        return commands(name, rooms)

    monkeypatch.setattr(module, "_commands", late)


@pytest.mark.usefixtures("subscribing_takes_time")
def test_what_is_said_right_after_joining_is_heard(connect_redis: Connect) -> None:
    assert heard_right_after_joining(connect_redis, RedisQueue.wait_until_joined) == list(range(20))


@pytest.mark.usefixtures("subscribing_takes_time")
def test_without_waiting_for_redis_it_is_not(connect_redis: Connect) -> None:
    """The control: that it is the waiting which keeps the promise."""
    assert len(heard_right_after_joining(connect_redis, lambda *_: None)) < 20


def heard_right_after_joining(connect_redis: Connect, wait: Callable[[RedisQueue, str], None]) -> list[int]:
    queue = RedisQueue(connect_redis(), SIGNING)
    ear = Ear(queue)
    publisher = RedisPublisher(connect_redis(), SIGNING)
    with listening(queue):
        for number in range(20):
            queue.join(f"user:{number}")
            wait(queue, f"user:{number}")
            publisher.publish(news(number, room=f"user:{number}"))
        publisher.publish(news(20))
        until(lambda: ear.heard[-1:] == [20])
    return ear.heard[:-1]


def test_a_room_is_left_a_while_after_its_last_member(connect_redis: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.01)
    queue = RedisQueue(connect_redis(), SIGNING)
    client = connect_redis()
    with listening(queue):
        for _ in range(2):
            queue.join(ROOM)
        queue.wait_until_joined(ROOM)
        queue.leave(ROOM)
        queue.leave(ROOM)
        assert subscribers(client, ROOM) == 1
        monkeypatch.setattr(subscriptions, "LINGER_SECONDS", 0.0)
        until(lambda: subscribers(client, ROOM) == 0)
        assert subscribers(client, ALL_INSTANCES) > 0


def test_members_who_come_and_go_miss_nothing_while_they_are_there(
    connect_redis: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.001)
    monkeypatch.setattr(subscriptions, "LINGER_SECONDS", 0.0)
    queue = RedisQueue(connect_redis(), SIGNING)
    ear = Ear(queue)
    publisher = RedisPublisher(connect_redis(), SIGNING)
    given_up = 0
    with listening(queue):
        for number in range(200):
            queue.join(ROOM)
            queue.wait_until_joined(ROOM)
            publisher.publish(news(number, room=ROOM))
            until(lambda: number in ear.heard)  # noqa: B023 - called at once
            queue.leave(ROOM)
            gevent.sleep(number % 4 / 1000)
            given_up += ROOM not in queue._rooms._state
    assert ear.heard == list(range(200))
    assert 0 < given_up < 200


# Connections


def test_an_instance_that_has_not_subscribed_yet_is_not_ready(connect_redis: Connect) -> None:
    queue = RedisQueue(connect_redis(), SIGNING)
    assert queue.not_ready_reason() == "redis: the message queue is not heard"
    with listening(queue):
        assert queue.not_ready_reason() is None


def test_a_connection_that_was_lost_is_made_again_for_all_rooms(connect_redis: Connect) -> None:
    queue = RedisQueue(connect_redis(), SIGNING)
    ear = Ear(queue)
    rooms = [f"user:{number}" for number in range(2500)]
    with listening(queue):
        for room in rooms:
            queue.join(room)
        queue.join("user:gone")
        queue.wait_until_joined("user:gone")
        queue.leave("user:gone")
        client = connect_redis()
        (lost,) = listeners(client)
        client.client_kill_filter(_id=lost)
        until(lambda: list(listeners(client).values()) == [len(rooms) + 1] and lost not in listeners(client))
        RedisPublisher(client, SIGNING).publish([Message(room, "news", {"number": room}) for room in rooms])
        until(lambda: len(ear.heard) == len(rooms))
        assert ear.heard == rooms
        assert queue.not_ready_reason() is None


def test_a_connection_that_says_nothing_is_given_up(connect_redis: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(module, "PING_SECONDS", 0.05)
    queue = RedisQueue(connect_redis(), SIGNING)
    client = connect_redis()
    with listening(queue):
        (before,) = listeners(client)
        gevent.sleep(0.5)
        assert list(listeners(client)) == [before]
        monkeypatch.setattr(module, "PING_SECONDS", 60.0)  # nothing is asked any more, nothing answered
        until(lambda: listeners(client) and before not in listeners(client))


def test_joining_does_not_wait_for_ever(connect_redis: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOIN_SECONDS", 0.05)
    queue = RedisQueue(connect_redis(), SIGNING)  # which nobody has started
    queue.join(ROOM)
    queue.wait_until_joined(ROOM)


def test_publishing_neither_waits_nor_grows(connect_redis: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "MAX_OUTBOX", 5)
    queue = RedisQueue(connect_redis(), SIGNING)  # nobody sends what it takes
    ear = Ear(queue)
    lost = count_of("reporadar_queue_messages_lost_total")
    for number in range(8):
        queue.publish(news(number))
    assert count_of("reporadar_queue_messages_lost_total") - lost == 3
    assert ear.heard == list(range(8))


def test_without_redis_messages_are_lost_and_counted(connect_redis: Connect) -> None:
    nowhere = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    lost = count_of("reporadar_queue_messages_lost_total")
    RedisPublisher(nowhere, SIGNING).publish(news(1, 2))
    sending = gevent.spawn((outbox := outgoing.Outbox(RedisPublisher(nowhere, SIGNING))).run)
    for message in news(3, 4, 5):
        outbox.put(message)
    until(lambda: count_of("reporadar_queue_messages_lost_total") - lost == 5)
    sending.kill()
    nowhere.close()


def test_what_is_sent_after_a_silence_is_heard_though_the_connection_has_ended(
    connect_redis: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "IDLE_SECONDS", 0.01)
    speaking, hearing = RedisQueue(connect_redis(), SIGNING), RedisQueue(connect_redis(), SIGNING)
    ear = Ear(hearing)
    with listening(speaking), listening(hearing):
        speaking.publish(news(1))
        until(lambda: ear.heard == [1])
        gevent.sleep(0.1)
        connect_redis().client_kill_filter(_type="normal", skipme=True)
        speaking.publish(news(2))
        until(lambda: ear.heard == [1, 2])


def test_what_python_socketio_passes_on_is_heard(connect_redis: Connect) -> None:
    first, second = RedisQueue(connect_redis(), SIGNING), RedisQueue(connect_redis(), SIGNING)
    heard: list[Any] = []
    second._handle_disconnect = heard.append
    with listening(first), listening(second):
        first._publish({"method": "disconnect", "sid": "1", "namespace": "/", "host_id": first.host_id})
        until(lambda: heard)
    assert heard[0]["sid"] == "1"
