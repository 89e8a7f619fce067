"""Notifications are delivered once and in order while messages are late or lost, and while instances and Redis restart.

The same check of an instance that delivers messages in the order of their arrival has to fail.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg2
import pytest

from harness import web
from harness.fleet import Fleet
from harness.processes import run
from harness.scale import count
from harness.servers import (
    ROOT,
    Instance,
    PostgresServer,
    base_environment,
    flask,
    procfile_command,
    wait_until,
)
from harness.sockets import HANDSHAKE, NO_FAULTS, Listener, delivery_faults
from harness.users import User

COUNT, PER_SECOND = count(400, 600), count(100, 150)


def notify(instance: Instance, user: User, count: int = 1, title: str = "hello", application: str = "wsgi") -> None:
    program, *_ = procfile_command("release", ROOT)
    command = [program, "--app", application, "notify", user.email, title, "--count", str(count), "--rate", "1000"]
    run(command, environment={**base_environment(), **instance.environment}, directory=ROOT)


@pytest.fixture(scope="module")
def pair(postgres_server: PostgresServer) -> Iterator[list[Instance]]:
    """A fleet of one instance without a fault and one that delivers messages in the order of their arrival."""
    with Fleet(postgres_server, size=1, applications={"instance-2": "tests.faults.unordered_delivery:app"}) as fleet:
        yield fleet.instances


def test_late_messages_arrive_in_order(pair: list[Instance]) -> None:
    true, trusting = pair
    user = User(true).register()
    with Listener(user).connect(true) as here, Listener(user).connect(trusting) as there:
        notify(true, user, 40, application="tests.faults.late_pushes")
        for listener in (here, there):
            listener.wait_for("notification", 40)
        assert delivery_faults(here.seqs, 40) == NO_FAULTS
        assert delivery_faults(there.seqs, 40).disordered > 0


def test_notification_of_a_killed_process_is_delivered(pair: list[Instance]) -> None:
    true, trusting = pair
    user = User(true).register()
    with Listener(user).connect(true) as here, Listener(user).connect(trusting) as there:
        with pytest.raises(AssertionError, match=f"status -{signal.SIGKILL.value}"):
            notify(true, user, application="tests.faults.killed_before_push")
        here.wait_for("notification", 1)  # with nothing to wake it up
        notify(true, user, 9)
        here.wait_for("notification", 10)
        there.wait_for("notification", 9)
        assert delivery_faults(here.seqs, 10) == NO_FAULTS
        assert delivery_faults(there.seqs, 10) == (1, 0, 0)


def test_client_too_far_behind_is_not_recovered(pair: list[Instance]) -> None:
    true, _ = pair
    user = User(true).register()
    notify(true, user, 30)
    with psycopg2.connect(true.environment["DATABASE_URL"]) as connection, connection.cursor() as cursor:
        mine = "user_id = (SELECT id FROM users WHERE email = %s)"
        cursor.execute(f"DELETE FROM notifications WHERE {mine} AND (seq <= 10 OR seq = 20)", [user.email])  # noqa: S608
    connection.close()
    for after, recovered, expected in [
        (30, True, []),
        (20, True, range(21, 31)),
        (10, False, []),  # there is a hole further on
        (9, False, []),
        (0, False, []),
        (31, False, []),
        (2**63 - 1, False, []),
    ]:
        with Listener(user, after=after).connect(true) as listener:
            ready = listener.received("ready")[0]
            assert (after, ready["head"], ready["recovered"], listener.seqs) == (after, 30, recovered, list(expected))
            assert listener.call("sync", {"after": after})["recovered"] is recovered


def test_no_notification_is_lost_during_kills_and_redis_outages(postgres_server: PostgresServer) -> None:
    with Fleet(postgres_server, size=3, balanced=True) as started, ExitStack() as stack:
        redis, fleet = started.redis, started.instances
        users = [User(fleet[0]).register(), User(fleet[0]).register()]
        kinds = itertools.product(users, [["polling"], ["websocket"], None])
        listeners = [stack.enter_context(Listener(user, transports=transports)) for user, transports in kinds]
        for listener in listeners:
            listener.connect(started.balancer)
        assert {listener.received("ready")[0]["instance_id"] for listener in listeners} == {
            "instance-1",
            "instance-2",
            "instance-3",
        }

        executor = stack.enter_context(ThreadPoolExecutor())
        options = ["hello", "--count", str(COUNT), "--rate", str(PER_SECOND)]
        senders = [executor.submit(flask, started.environment, "notify", user.email, *options) for user in users]
        wait_until(lambda: all(listener.seqs for listener in listeners), what="the first notifications")
        fleet[0].kill()
        redis.freeze()
        refused = web.get(f"{fleet[2].url}{HANDSHAKE}polling", headers={"Cookie": users[0].cookie_header})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        fleet[0].start(wait_ready=False)
        fleet[1].send(signal.SIGTERM)
        fleet[1].wait()
        redis.resume()
        fleet[1].start(wait_ready=False)
        redis.restart()

        for sender in senders:
            sender.result()
        for instance in fleet:
            instance.wait_ready()
        wait_until(lambda: all(listener.seqs[-1:] == [COUNT] for listener in listeners), what="the last notification")
        assert [delivery_faults(listener.seqs, COUNT) for listener in listeners] == [NO_FAULTS] * len(listeners)
        assert sum(listener.connections for listener in listeners) > len(listeners)
        assert not any({"message": "unauthorized"} in listener.connect_errors for listener in listeners)
        assert all("Traceback" not in instance.log() for instance in fleet)
