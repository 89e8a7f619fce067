"""Messages over a Redis Cluster: who carries them, and what happens when slots move and masters die."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Self

import gevent
import pytest
import redis

from app.core.messages import ALL_INSTANCES, Message
from app.realtime import message_queue as module
from app.realtime import subscriptions
from app.realtime.envelope import channel_of
from app.realtime.message_queue import RedisMessageQueue
from app.realtime.publisher import RedisPublisher
from app.redis.cluster import slot_of_key
from harness.greenlets import until
from harness.lateness import measured_lateness
from harness.redis_cluster import ClusterNode, RedisCluster
from tests.cooperative.test_message_queue import SIGNING, Recorder, news, running
from tests.unit.conftest import clients_of

Connect = Callable[[], redis.Redis]

SECONDS_AFTER_TAKEOVER = 2.0


@pytest.fixture
def connect_to(redis_cluster: RedisCluster) -> Iterator[Connect]:
    """Create clients of the cluster as instances do."""
    redis_cluster.wait_until_whole()
    with clients_of(redis_cluster.url) as connect_one:
        yield connect_one


def room_on(cluster: RedisCluster, node: ClusterNode) -> str:
    """Return a room of a user that a master carries."""
    rooms = (f"user:{number}" for number in itertools.count(1))
    return next(room for room in rooms if cluster.master_of(channel_of(room)) is node)


def published(cluster: RedisCluster) -> dict[int, int]:
    """Return how many messages each node was sent so far, by its port."""
    return {port: counts["spublish"] + counts["publish"] for port, counts in cluster.command_counts().items()}


def receiving_connections(cluster: RedisCluster) -> list[int]:
    """Return the number of subscribed connections of each node that runs."""
    found = []
    for node in cluster.nodes:
        if node.is_up:
            with node.client() as client:
                found.append(sum(int(one["ssub"]) > 0 for one in client.client_list()))
    return found


class Stream:
    """Publishes numbers to a room, and records those that a queue receives."""

    def __init__(self, publisher: RedisMessageQueue, receiver: RedisMessageQueue, room: str) -> None:
        self.sent = 0
        self.received: list[int] = []
        self._publisher, self._room = publisher, room
        receiver.on(room, lambda data: self.received.append(data["number"]))
        receiver.join(room)
        receiver.wait_until_joined(room)

    def __enter__(self) -> Self:
        self._greenlet = gevent.spawn(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._greenlet.kill()

    def _run(self) -> None:
        while True:
            self.send()
            gevent.sleep(0.01)

    def send(self) -> None:
        self._publisher.publish([Message(self._room, self._room, {"number": self.sent})])
        self.sent += 1

    def wait_for_messages(self, count: int = 10) -> None:
        """Wait until some messages that are sent from now on have been received."""
        first = self.sent
        until(lambda: sum(number >= first for number in self.received) >= count)

    def stop(self) -> None:
        """Send a last message, and wait until it was received."""
        self._greenlet.kill()
        self.send()
        until(lambda: self.received[-1] == self.sent - 1)

    @property
    def lost(self) -> list[int]:
        return sorted(set(range(self.sent)) - set(self.received))


def test_message_reaches_one_master_and_the_instances_with_members(redis_cluster: RedisCluster, connect_to: Connect) -> None:
    publisher, host, bystander = (RedisMessageQueue(connect_to(), SIGNING) for _ in range(3))
    first, second, _ = masters = redis_cluster.masters()
    carrier_of_all = redis_cluster.master_of(channel_of(ALL_INSTANCES))
    with running(publisher), running(host), running(bystander):
        assert receiving_connections(redis_cluster) == [3 * (node is carrier_of_all) for node in redis_cluster.nodes]
        hosted = Stream(publisher, host, room_on(redis_cluster, first))
        other = Stream(publisher, bystander, room_on(redis_cluster, second))
        needed = {first: {host}, second: {bystander}} | {carrier_of_all: {publisher, host, bystander}}
        assert receiving_connections(redis_cluster) == [len(needed.get(node, ())) for node in redis_cluster.nodes]
        bystander.on(hosted._room, lambda _: pytest.fail("no member of the room"))
        before = published(redis_cluster)
        for _ in range(50):
            hosted.send()
        other.send()
        until(lambda: len(hosted.received) == 50 and other.received)
        after = published(redis_cluster)
    assert hosted.received == list(range(50))
    assert sum(after[node.port] - before[node.port] for node in redis_cluster.nodes if node not in masters) == 0
    sent = [after[node.port] - before[node.port] for node in masters]
    assert 1 <= sent[0] <= 50  # messages that wait together share an envelope
    assert sent[1:] == [1, 0]


def test_connection_that_no_room_needs_is_closed(
    redis_cluster: RedisCluster, connect_to: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.01)
    monkeypatch.setattr(subscriptions, "LINGER_SECONDS", 0.0)
    carrier_of_all = redis_cluster.master_of(channel_of(ALL_INSTANCES))
    other = next(node for node in redis_cluster.masters() if node is not carrier_of_all)
    publisher, host = RedisMessageQueue(connect_to(), SIGNING), RedisMessageQueue(connect_to(), SIGNING)
    with running(publisher), running(host):
        room = room_on(redis_cluster, other)
        stream = Stream(publisher, host, room)
        host.leave(room)
        until(lambda: sum(receiving_connections(redis_cluster)) == 2)
        host.join(room)
        host.wait_until_joined(room)
        stream.send()
        until(lambda: stream.received == [0])


def test_users_of_other_masters_do_not_notice_a_killed_one(redis_cluster: RedisCluster, connect_to: Connect) -> None:
    """The killed master also carries the room of all instances."""
    killed = redis_cluster.master_of(channel_of(ALL_INSTANCES))
    other = next(node for node in redis_cluster.masters() if node is not killed)
    publisher, host = RedisMessageQueue(connect_to(), SIGNING), RedisMessageQueue(connect_to(), SIGNING)
    room = room_on(redis_cluster, killed)
    with (
        running(publisher),
        running(host),
        Stream(publisher, host, room) as concerned,
        Stream(publisher, host, room_on(redis_cluster, other)) as unconcerned,
        Stream(publisher, host, ALL_INSTANCES) as to_all,
    ):
        for stream in (concerned, unconcerned, to_all):
            stream.wait_for_messages()
        with redis_cluster.without(killed), measured_lateness() as lateness:
            unconcerned.wait_for_messages()
            redis_cluster.wait_for_takeover(channel_of(room))
            taken_over_at = time.monotonic()
            concerned.wait_for_messages()
            to_all.wait_for_messages()
            assert time.monotonic() - taken_over_at < SECONDS_AFTER_TAKEOVER + lateness.slack
            assert host.not_ready_reason() is None
            for stream in (concerned, unconcerned, to_all):
                stream.stop()
        concerned.send()
        until(lambda: concerned.received[-1] == concerned.sent - 1)
    assert unconcerned.lost == []
    assert unconcerned.received == list(range(unconcerned.sent))
    assert 0 < len(concerned.lost) < concerned.sent


def test_room_moves_with_its_slot(redis_cluster: RedisCluster, connect_to: Connect) -> None:
    source, target, *_ = redis_cluster.masters()
    room, staying = room_on(redis_cluster, source), room_on(redis_cluster, target)
    slot = slot_of_key(channel_of(room))
    publisher, host = RedisMessageQueue(connect_to(), SIGNING), RedisMessageQueue(connect_to(), SIGNING)
    with (
        running(publisher),
        running(host),
        Stream(publisher, host, room) as moving,
        Stream(publisher, host, staying) as unconcerned,
    ):
        for origin, destination in ((source, target), (target, source)):
            moving.wait_for_messages()
            redis_cluster.migrate_slot(slot, destination, halfway=moving.wait_for_messages)
            moving.wait_for_messages()
            assert redis_cluster.master_of(slot) is not origin
        for stream in (moving, unconcerned):
            stream.stop()
    assert unconcerned.lost == []
    assert sorted(set(moving.received)) == sorted(moving.received)  # none twice
    assert len(moving.lost) < 30


def test_message_that_is_redirected_is_published_once(redis_cluster: RedisCluster, connect_to: Connect) -> None:
    source, target, *_ = redis_cluster.masters()
    room = room_on(redis_cluster, source)
    slot = slot_of_key(channel_of(room))
    instance, host = RedisMessageQueue(connect_to(), SIGNING), RedisMessageQueue(connect_to(), SIGNING)
    external = RedisPublisher(connect_to(), SIGNING)
    recorder = Recorder(host)
    with running(instance), running(host):
        host.join(room)
        host.wait_until_joined(room)
        instance.publish(news(0, room=room))
        assert external.publish_now(news(1, room=room)) == 1
        until(lambda: sorted(recorder.numbers) == [0, 1])
        redis_cluster.migrate_slot(slot, target)
        until(lambda: receiving_connections(redis_cluster)[redis_cluster.nodes.index(target)])
        host.wait_until_joined(room)
        instance.publish(news(2, room=room))
        assert external.publish_now(news(3, room=room)) == 1
        until(lambda: sorted(recorder.numbers) == [0, 1, 2, 3])
        redis_cluster.migrate_slot(slot, source)
