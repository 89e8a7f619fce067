"""Notifications and events on a Redis Cluster: none is lost while a master is killed and while slots move, and who notices."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from app.core import config
from app.core.messages import ALL_INSTANCES, user_room
from app.realtime.envelope import channel_of
from app.realtime.publisher import Publisher
from app.redis.cluster import slot_of_key
from harness.fleet import Fleet
from harness.redis_cluster import ClusterNode, RedisCluster
from harness.scale import full_only
from harness.servers import PostgresServer, flask, wait_until
from harness.sockets import NO_FAULTS, Listener, delivery_faults
from harness.users import User

COUNT, PER_SECOND = 600, 60

pytestmark = full_only


@pytest.fixture(scope="module")
def fleet(redis_cluster: RedisCluster, postgres_server: PostgresServer) -> Iterator[Fleet]:
    with Fleet(postgres_server, redis_url=redis_cluster.url) as fleet:
        yield fleet


def id_of(user: User) -> int:
    return int(user.get("/api/auth/me").json()["user"]["id"])


def channel(user: User) -> str:
    return channel_of(user_room(id_of(user)))


def user_on(fleet: Fleet, cluster: RedisCluster, node: ClusterNode, *, is_wanted: bool) -> User:
    """Register users until the messages to one are carried by a master, or by another one if `is_wanted` is false."""
    while True:
        user = User(fleet.instances[0]).register()
        if (cluster.master_of(channel(user)) is node) == is_wanted:
            return user


def test_no_notification_is_lost_while_a_master_is_killed_and_a_slot_moves(fleet: Fleet, redis_cluster: RedisCluster) -> None:
    killed = redis_cluster.masters()[0]
    concerned, unconcerned = (user_on(fleet, redis_cluster, killed, is_wanted=is_wanted) for is_wanted in (True, False))
    with ExitStack() as stack:
        listeners = {
            user: [stack.enter_context(Listener(user).connect(instance)) for instance in fleet.instances]
            for user in (concerned, unconcerned)
        }
        pool = stack.enter_context(ThreadPoolExecutor())
        options = ["hello", "--count", str(COUNT), "--rate", str(PER_SECOND)]
        senders = [pool.submit(flask, fleet.environment, "notify", user.email, *options) for user in listeners]
        wait_for_notifications(listeners[concerned] + listeners[unconcerned], 60)

        with redis_cluster.without(killed):
            redis_cluster.wait_for_takeover(channel(concerned))
        source, target, *_ = redis_cluster.masters()
        for user in (concerned, unconcerned):
            slot = slot_of_key(channel(user))
            redis_cluster.migrate_slot(slot, target if redis_cluster.master_of(slot) is source else source)

        for sender in senders:
            sender.result()
        wait_for_notifications(listeners[concerned] + listeners[unconcerned], COUNT)
        for user in listeners:
            assert [delivery_faults(one.seqs, COUNT) for one in listeners[user]] == [NO_FAULTS] * 2
            assert [one.connections for one in listeners[user]] == [1, 1]

        with closing(Publisher(config.load(fleet.environment))) as publisher:
            for user in listeners:
                assert publisher.emit("deployed", {"user": user.email}, room=user_room(id_of(user))) == 2
            assert publisher.emit("over") == 2
        for user in listeners:
            for listener in listeners[user]:
                listener.wait_for("over")
                assert listener.received("deployed") == [{"user": user.email}]


def test_sessions_on_another_master_end_everywhere_while_the_room_of_all_instances_is_down(
    fleet: Fleet, redis_cluster: RedisCluster
) -> None:
    here, there = fleet.instances
    killed = redis_cluster.master_of(channel_of(ALL_INSTANCES))
    user = user_on(fleet, redis_cluster, killed, is_wanted=False)
    while redis_cluster.master_of(f"{{user:{id_of(user)}}}") is killed:  # the sessions of the user
        user = user_on(fleet, redis_cluster, killed, is_wanted=False)
    other = User(here)
    other.email = user.email
    assert other.log_in().status_code == 200
    with (
        Listener(user).connect(there) as first,
        Listener(other).connect(there) as second,
        redis_cluster.without(killed),
    ):
        assert user.request("DELETE", "/api/auth/sessions").status_code == 204
        assert second.wait_for("session_ended") == {"reason": "revoked"}  # found by the instance itself, it would be "expired"
        assert user.post("/api/auth/logout").status_code == 204
        assert first.wait_for("session_ended") == {"reason": "signed_out"}
        redis_cluster.wait_for_takeover(channel_of(ALL_INSTANCES))


def wait_for_notifications(listeners: list[Listener], count: int) -> None:
    wait_until(lambda: all(len(one.seqs) >= count for one in listeners), what=f"{count} notifications")
