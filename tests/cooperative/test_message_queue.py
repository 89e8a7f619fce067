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
from app.realtime import message_queue as module
from app.realtime import publisher as publisher_module
from app.realtime import subscriptions
from app.realtime.envelope import EnvelopeCodec, channel_of, encode_message
from app.realtime.message_queue import LocalMessageQueue, RedisMessageQueue
from app.realtime.publisher import RedisPublisher
from app.redis.cluster import ClusterClient
from app.sessions import cookie
from harness.greenlets import until
from tests.unit.conftest import count_of

SIGNING = Keyring("signing", (b"s" * 32,))
ROTATED = Keyring("signing", (b"t" * 32, b"s" * 32))
FOREIGN = Keyring("signing", (b"f" * 32,))
ROOM, OTHER = "user:1", "user:2"

Connect = Callable[[], redis.Redis]


@pytest.fixture(params=["connect_redis", "connect_cluster"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Create clients of one server, or of a cluster."""
    connect: Connect = request.getfixturevalue(request.param)
    return connect


class Recorder:
    """Records the numbers in the messages that a queue handles."""

    def __init__(self, queue: LocalMessageQueue | RedisMessageQueue, kind: str = "news") -> None:
        self.numbers: list[Any] = []
        queue.on(kind, lambda data: self.numbers.append(data["number"]))


def news(*numbers: int, room: str = ALL_INSTANCES) -> list[Message]:
    return [Message(room, "news", {"number": number}) for number in numbers]


@contextmanager
def running(queue: RedisMessageQueue) -> Iterator[None]:
    greenlet = gevent.spawn(queue.run)
    until(lambda: queue.not_ready_reason() is None)
    yield
    greenlet.kill()


def subscribed_connections(client: redis.Redis) -> dict[str, int]:
    """The number of channels of each subscribed connection, by client ID."""
    found = {connection["id"]: int(connection["sub"]) for connection in client.client_list(_type="pubsub")}
    return {one: count for one, count in found.items() if count}


def subscribers(client: redis.Redis, room: str) -> int:
    channel = channel_of(room)
    if isinstance(client, ClusterClient):
        ((_, count),) = client.master_of(channel).pubsub_shardnumsub(channel)
    else:
        ((_, count),) = client.pubsub_numsub(channel)
    return int(count)


def test_local_queue_handles_its_own_messages() -> None:
    queue = LocalMessageQueue()
    recorder = Recorder(queue)
    queue.publish(news(1))
    assert recorder.numbers == [1]


def test_message_of_an_unknown_kind_is_ignored() -> None:
    """A newer version of the application may have published it."""
    queue = LocalMessageQueue()
    recorder = Recorder(queue)
    queue.publish([Message(ALL_INSTANCES, "unknown", {}), *news(1)])
    assert recorder.numbers == [1]


def test_all_instances_receive_each_message_once_and_in_order(connect: Connect) -> None:
    first, second = RedisMessageQueue(connect(), SIGNING), RedisMessageQueue(connect(), SIGNING)
    recorders = [Recorder(first), Recorder(second)]
    with running(first), running(second):
        for number in range(100):
            first.publish(news(number))
        until(lambda: len(recorders[1].numbers) == 100)
    assert [recorder.numbers for recorder in recorders] == [list(range(100))] * 2


def test_messages_of_an_external_process_are_received(connect: Connect) -> None:
    queue = RedisMessageQueue(connect(), ROTATED)
    recorder = Recorder(queue)
    with running(queue):
        RedisPublisher(connect(), SIGNING).publish(news(1, 2))
        until(lambda: recorder.numbers == [1, 2])


@pytest.mark.parametrize(
    "forged",
    [
        EnvelopeCodec(FOREIGN).seal([encode_message(news(1)[0])]),
        bytes(32) + EnvelopeCodec(SIGNING).seal([encode_message(news(1)[0])])[32:],
        cookie.sign(SIGNING, json.dumps([["news", {"number": 1}]]), "queue"),
        json.dumps([["news", {"number": 1}]]),
        b"\xff\x00",
        b"",
        EnvelopeCodec(SIGNING).seal([b'["news", "of another version"]']),
    ],
)
def test_message_that_cannot_be_opened_is_dropped(
    connect_redis: Connect, forged: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    queue = RedisMessageQueue(connect_redis(), SIGNING)
    recorder, rejected = Recorder(queue), count_of("reporadar_queue_messages_rejected_total")
    with running(queue):
        for _ in range(2):
            connect_redis().publish(channel_of(ALL_INSTANCES), forged)
        RedisPublisher(connect_redis(), SIGNING).publish(news(2))
        until(lambda: recorder.numbers)
    assert recorder.numbers == [2]
    assert count_of("reporadar_queue_messages_rejected_total") - rejected == 2
    assert [record.message.partition(" with ")[0] for record in caplog.records] == ["dropped message"]


def test_failing_handler_does_not_stop_the_queue(connect_redis: Connect) -> None:
    queue = RedisMessageQueue(connect_redis(), SIGNING)
    recorder = Recorder(queue)
    queue.on("trouble", lambda _: 1 / 0)  # type: ignore[arg-type]
    with running(queue):
        RedisPublisher(connect_redis(), SIGNING).publish([Message(ALL_INSTANCES, "trouble", {}), *news(1)])
        until(lambda: recorder.numbers == [1])


def test_burst_of_messages_yields_to_other_greenlets(connect_redis: Connect) -> None:
    queue = RedisMessageQueue(connect_redis(), SIGNING)
    waiting = 0
    most = 0

    def handle(_: dict[str, Any]) -> None:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)

    def write() -> None:
        nonlocal waiting
        while True:
            gevent.sleep(0)
            waiting = 0

    queue.on("news", handle)
    writing = gevent.spawn(write)
    with running(queue):
        RedisPublisher(connect_redis(), SIGNING).publish([*news(*range(400)), Message(ALL_INSTANCES, "over", {})])
        over: list[object] = []
        queue.on("over", over.append)
        until(lambda: over)
    writing.kill()
    assert 0 < most <= module.MESSAGES_PER_TURN


# Rooms


def test_instance_without_members_of_a_room_receives_nothing(connect: Connect) -> None:
    publisher, host, bystander = (RedisMessageQueue(connect(), SIGNING) for _ in range(3))
    recorders = [Recorder(host), Recorder(bystander)]
    client = connect()
    with running(publisher), running(host), running(bystander):
        host.join(ROOM)
        host.wait_until_joined(ROOM)
        bystander.join(OTHER)
        bystander.wait_until_joined(OTHER)
        assert subscribers(client, ROOM) == subscribers(client, OTHER) == 1
        publisher.publish(news(*range(50), room=ROOM) + news(99, room=OTHER))
        until(lambda: len(recorders[0].numbers) == 50)
        until(lambda: recorders[1].numbers)
    assert [recorder.numbers for recorder in recorders] == [list(range(50)), [99]]


@pytest.fixture
def slow_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = module._commands

    def slow_commands(name: str, rooms: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
        gevent.sleep(0.005)
        return commands(name, rooms, size)

    monkeypatch.setattr(module, "_commands", slow_commands)


@pytest.mark.usefixtures("slow_subscriptions")
def test_message_right_after_joining_is_received(connect: Connect) -> None:
    assert numbers_received_right_after_joining(connect, RedisMessageQueue.wait_until_joined) == list(range(20))


@pytest.mark.usefixtures("slow_subscriptions")
def test_control_without_waiting_messages_are_missed(connect_redis: Connect) -> None:
    """The control: without waiting for the subscription, messages are missed."""
    assert len(numbers_received_right_after_joining(connect_redis, lambda *_: None)) < 20


def numbers_received_right_after_joining(connect_redis: Connect, wait: Callable[[RedisMessageQueue, str], None]) -> list[int]:
    queue = RedisMessageQueue(connect_redis(), SIGNING)
    recorder = Recorder(queue)
    publisher = RedisPublisher(connect_redis(), SIGNING)
    with running(queue):
        for number in range(20):
            queue.join(f"user:{number}")
            wait(queue, f"user:{number}")
            publisher.publish(news(number, room=f"user:{number}"))
        publisher.publish(news(20))
        until(lambda: recorder.numbers[-1:] == [20])
    return recorder.numbers[:-1]


def test_room_is_unsubscribed_some_time_after_its_last_member(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.01)
    queue = RedisMessageQueue(connect(), SIGNING)
    client = connect()
    with running(queue):
        for _ in range(2):
            queue.join(ROOM)
        queue.wait_until_joined(ROOM)
        queue.leave(ROOM)
        queue.leave(ROOM)
        assert subscribers(client, ROOM) == 1
        monkeypatch.setattr(subscriptions, "LINGER_SECONDS", 0.0)
        until(lambda: subscribers(client, ROOM) == 0)
        assert subscribers(client, ALL_INSTANCES) > 0


def test_members_that_join_and_leave_repeatedly_miss_nothing_while_joined(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.001)
    monkeypatch.setattr(subscriptions, "LINGER_SECONDS", 0.0)
    queue = RedisMessageQueue(connect(), SIGNING)
    recorder = Recorder(queue)
    publisher = RedisPublisher(connect(), SIGNING)
    unsubscribed = 0
    with running(queue):
        for number in range(200):
            queue.join(ROOM)
            queue.wait_until_joined(ROOM)
            publisher.publish(news(number, room=ROOM))
            until(lambda: number in recorder.numbers)  # noqa: B023 - called at once
            queue.leave(ROOM)
            gevent.sleep(number % 4 / 1000)
            unsubscribed += ROOM not in queue._subscriptions._state
    assert recorder.numbers == list(range(200))
    assert 0 < unsubscribed < 200


# Connections


def test_queue_is_not_ready_before_it_has_subscribed(connect_redis: Connect) -> None:
    queue = RedisMessageQueue(connect_redis(), SIGNING)
    assert queue.not_ready_reason() == "redis: not subscribed to the message queue"
    with running(queue):
        assert queue.not_ready_reason() is None


def test_lost_connection_is_replaced_and_subscribes_to_all_rooms(connect_redis: Connect) -> None:
    queue = RedisMessageQueue(connect_redis(), SIGNING)
    recorder = Recorder(queue)
    rooms = [f"user:{number}" for number in range(2500)]
    with running(queue):
        for room in rooms:
            queue.join(room)
        queue.join("user:gone")
        queue.wait_until_joined("user:gone")
        queue.leave("user:gone")
        client = connect_redis()
        (lost,) = subscribed_connections(client)
        client.client_kill_filter(_id=lost)
        until(
            lambda: (
                list(subscribed_connections(client).values()) == [len(rooms) + 1] and lost not in subscribed_connections(client)
            )
        )
        RedisPublisher(client, SIGNING).publish([Message(room, "news", {"number": room}) for room in rooms])
        until(lambda: len(recorder.numbers) == len(rooms))
        assert recorder.numbers == rooms
        assert queue.not_ready_reason() is None


def test_silent_connection_is_replaced(connect_redis: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(module, "PING_SECONDS", 0.05)
    queue = RedisMessageQueue(connect_redis(), SIGNING)
    client = connect_redis()
    with running(queue):
        (before,) = subscribed_connections(client)
        gevent.sleep(0.5)
        assert list(subscribed_connections(client)) == [before]
        monkeypatch.setattr(module, "PING_SECONDS", 60.0)  # no ping, so no reply
        until(lambda: subscribed_connections(client) and before not in subscribed_connections(client))


def test_waiting_for_a_subscription_times_out(connect_redis: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOIN_TIMEOUT_SECONDS", 0.05)
    queue = RedisMessageQueue(connect_redis(), SIGNING)  # not running
    queue.join(ROOM)
    queue.wait_until_joined(ROOM)


def test_full_outbox_drops_messages_without_waiting(connect_redis: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "OUTBOX_MESSAGES", 5)
    queue = RedisMessageQueue(connect_redis(), SIGNING)  # not running, so nothing leaves the outbox
    recorder = Recorder(queue)
    dropped = count_of("reporadar_queue_messages_lost_total")
    for number in range(8):
        queue.publish(news(number))
    assert count_of("reporadar_queue_messages_lost_total") - dropped == 3
    assert recorder.numbers == list(range(8))


def test_messages_dropped_while_redis_is_down_are_counted(connect_redis: Connect) -> None:
    unreachable = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    dropped = count_of("reporadar_queue_messages_lost_total")
    RedisPublisher(unreachable, SIGNING).publish(news(1, 2))
    publishing = gevent.spawn((outbox := publisher_module.Outbox(RedisPublisher(unreachable, SIGNING))).run)
    for message in news(3, 4, 5):
        outbox.put(message)
    until(lambda: count_of("reporadar_queue_messages_lost_total") - dropped == 5)
    publishing.kill()
    unreachable.close()


def test_message_after_an_idle_time_is_received_although_the_connection_was_closed(
    connect_redis: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "IDLE_SECONDS", 0.01)
    sender, receiver = RedisMessageQueue(connect_redis(), SIGNING), RedisMessageQueue(connect_redis(), SIGNING)
    recorder = Recorder(receiver)
    with running(sender), running(receiver):
        sender.publish(news(1))
        until(lambda: recorder.numbers == [1])
        gevent.sleep(0.1)
        connect_redis().client_kill_filter(_type="normal", skipme=True)
        sender.publish(news(2))
        until(lambda: recorder.numbers == [1, 2])


def test_messages_of_python_socketio_are_received(connect: Connect) -> None:
    first, second = RedisMessageQueue(connect(), SIGNING), RedisMessageQueue(connect(), SIGNING)
    received: list[Any] = []
    second._handle_disconnect = received.append
    with running(first), running(second):
        first._publish({"method": "disconnect", "sid": "1", "namespace": "/", "host_id": first.host_id})
        until(lambda: received)
    assert received[0]["sid"] == "1"
