"""Instances receive exactly the messages for their own sockets, from the moment a socket is ready.

The messages are export states, because no SQL row makes up for a lost one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from app.core import config
from app.core.keyring import Keyring
from app.core.messages import ALL_INSTANCES, ANALYTICS_ROOM, Message, user_room
from app.realtime.envelope import channel_of
from app.realtime.publisher import RedisPublisher
from harness.fleet import Fleet
from harness.processes import run
from harness.servers import ROOT, Instance, PostgresServer, base_environment, flask, promote, wait_until
from harness.sockets import Listener
from harness.users import User

FIRST, LATER = 1, 2


class RoomFleet(Fleet):
    """Two instances without a fault, one with it, and a publisher."""

    def __init__(self, postgres: PostgresServer) -> None:
        super().__init__(postgres, applications={"hasty": "tests.faults.ready_before_subscribed:app"})

    def _start(self) -> None:
        super()._start()
        self.client = self.redis.client()
        self._stack.callback(self.client.close)
        secrets = tuple(key.encode() for key in config.load(self.environment).session_secret)
        self._publisher = RedisPublisher(self.client, Keyring("signing", secrets))

    def tell(self, user_id: int, *numbers: int) -> None:
        self._publisher.publish(
            [Message(user_room(user_id), "export", {"user_id": user_id, "export": {"id": number}}) for number in numbers]
        )

    def hearing(self, room: str) -> int:
        """Return how many instances are subscribed to a room."""
        ((_, count),) = self.client.pubsub_numsub(channel_of(room))
        return int(count)

    def cut(self) -> None:
        self.client.client_kill_filter(_type="pubsub")

    def restart(self) -> None:
        self.redis.restart()
        self.client.connection_pool.disconnect()

    def subscriptions(self) -> set[str]:
        return set(map(str, self.client.pubsub_channels()))


@pytest.fixture(scope="module")
def fleet(postgres_server: PostgresServer) -> Iterator[RoomFleet]:
    with RoomFleet(postgres_server) as fleet:
        yield fleet


def id_of(user: User) -> int:
    return int(user.get("/api/auth/me").json()["user"]["id"])


def told(listener: Listener) -> list[int]:
    return [export["id"] for export in listener.received("export")]


def test_messages_reach_only_the_instances_that_host_the_user(fleet: RoomFleet) -> None:
    host, other, _ = fleet.instances
    user, somebody = User(host).register(), User(other).register()
    user_id = id_of(user)
    assert fleet.hearing(user_room(user_id)) == 0
    with Listener(user).connect(host) as first, Listener(somebody).connect(other):
        with Listener(user).connect(host) as second:
            assert fleet.hearing(user_room(user_id)) == 1
            assert fleet.hearing(ALL_INSTANCES) == 3
            fleet.tell(user_id, *range(40))
            for listener in (first, second):
                listener.wait_for("export", 40)
                assert told(listener) == list(range(40))
        with Listener(user).connect(other) as third:
            assert fleet.hearing(user_room(user_id)) == 2
            fleet.tell(user_id, 40)
            for listener in (first, third):
                wait_until(lambda: told(listener)[-1:] == [40], what="the message")  # noqa: B023 - called at once
    wait_until(lambda: fleet.hearing(user_room(user_id)) == 0, what="nobody to be sent it any more")


def test_stored_events_are_published_where_an_administrator_watches(fleet: RoomFleet) -> None:
    host, _, _ = fleet.instances
    user = User(host).register()
    promote(host.environment, user.email)
    with Listener(user).connect(host) as listener:
        assert fleet.hearing(ANALYTICS_ROOM) == 0
        for _ in range(2):
            assert listener.call("watch_analytics", {}) == {"ok": True}
        assert fleet.hearing(ANALYTICS_ROOM) == 1
    wait_until(lambda: fleet.hearing(ANALYTICS_ROOM) == 0, what="nobody to be sent it any more")


def heard_when_ready(fleet: RoomFleet, instance: Instance) -> list[int]:
    """Publish one message when the first socket of a user becomes ready and one later; return the received ones."""
    user = User(instance).register()
    user_id = id_of(user)
    with Listener(user, transports=["websocket"]).connect(instance) as listener:
        fleet.tell(user_id, FIRST)
        wait_until(lambda: fleet.hearing(user_room(user_id)) == 1, what="the instance to hear")
        fleet.tell(user_id, LATER)
        wait_until(lambda: LATER in told(listener), what="the later message")
        return told(listener)


def test_message_sent_when_a_socket_becomes_ready_arrives(fleet: RoomFleet) -> None:
    assert [heard_when_ready(fleet, fleet.instances[1]) for _ in range(10)] == [[FIRST, LATER]] * 10


def test_message_is_lost_without_waiting_for_the_subscription(fleet: RoomFleet) -> None:
    """The negative control: the same check of the instance with the fault."""
    assert [heard_when_ready(fleet, fleet.instances[2]) for _ in range(3)] == [[LATER]] * 3


def test_reconnecting_user_misses_no_message(fleet: RoomFleet) -> None:
    host, _, _ = fleet.instances
    user = User(host).register()
    user_id = id_of(user)
    for number in range(12):
        with Listener(user, transports=["websocket"]).connect(host) as listener:
            fleet.tell(user_id, number)
            assert listener.wait_for("export") == {"id": number}
    assert fleet.hearing(user_room(user_id)) == 1  # for a while, without having asked again each time


# Events of other processes

SCRIPT = """
import sys
from app.realtime.publisher import Publisher

publisher = Publisher.from_environment()
room = sys.argv[1]
print(publisher.emit("deployed", {"version": 1}, room=room))
print(publisher.emit("deployed", ("two", [3]), room=room))
print(publisher.emit("deployed"))
print("flask_socketio" in sys.modules)
"""


def test_events_of_a_script_and_of_the_command_line_reach_the_sockets_of_their_room(fleet: RoomFleet) -> None:
    host, other, _ = fleet.instances
    user, somebody = User(host).register(), User(other).register()
    room = user_room(id_of(user))
    with (
        Listener(user).connect(host) as first,
        Listener(user).connect(other) as second,
        Listener(somebody).connect(other) as third,
    ):
        environment = base_environment() | fleet.environment
        assert run([sys.executable, "-W", "error", "-c", SCRIPT, room], environment=environment, directory=ROOT).split() == [
            *("2", "2", "3"),  # instances that received the event
            "False",  # without the web application
        ]
        assert flask(fleet.environment, "emit", "all", "deployed", '["ü"]') == "received by 3 instances\n"
        for listener, count in ((first, 4), (second, 4), (third, 2)):
            listener.wait_for("deployed", count)
    to_all = [(), ["ü"]]
    assert [listener.received("deployed") for listener in (first, second, third)] == [
        [{"version": 1}, ("two", [3]), *to_all],
        [{"version": 1}, ("two", [3]), *to_all],
        to_all,
    ]


@pytest.mark.parametrize("interrupt", [RoomFleet.cut, RoomFleet.restart])
def test_all_rooms_are_subscribed_again_after_an_interruption(fleet: RoomFleet, interrupt: Callable[[RoomFleet], None]) -> None:
    users = [User(instance).register() for instance in fleet.instances[:2] for _ in range(3)]
    with ExitStack() as stack:
        listeners = [stack.enter_context(Listener(user)) for user in users]
        for number, listener in enumerate(listeners):
            listener.connect(fleet.instances[number // 3])
        rooms = {channel_of(user_room(id_of(user))) for user in users} | {channel_of(ALL_INSTANCES)}
        assert rooms <= fleet.subscriptions()
        interrupt(fleet)
        wait_until(lambda: fleet.hearing(ALL_INSTANCES) == 3, what="all instances to hear again")
        assert rooms <= fleet.subscriptions()
        for number, user in enumerate(users):
            fleet.tell(id_of(user), number)
        for number, listener in enumerate(listeners):
            assert listener.wait_for("export") == {"id": number}
            assert listener.connections == 1
