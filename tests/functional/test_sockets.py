"""Sockets of several instances under the official Python client: who may open one, what it is told, and how it ends."""

from __future__ import annotations

import pytest
import socketio

from tests.functional.conftest import StartFleet
from tests.functional.users import User
from tests.servers import Instance, flask, wait_until
from tests.sockets import Listener


def notify(instance: Instance, user: User, *options: str) -> list[int]:
    """With the command, from a process that is no instance; returns the numbers that it printed."""
    output = flask(instance.environment, "notify", user.email, "hello", *options)
    return [int(line) for line in output.split()]


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_what_is_stored_elsewhere_arrives_on_every_instance_in_order(start_fleet: StartFleet, transport: str) -> None:
    first, second = start_fleet(2)
    user = User(first).register()
    with Listener(user, transports=[transport]) as here, Listener(user, transports=[transport]) as there:
        here.connect(first)
        there.connect(second)
        assert here.heard("ready")[0]["instance_id"] == "instance-1"
        assert notify(first, user, "--count", "50") == list(range(1, 51))
        for listener in (here, there):
            listener.wait_for("notification", 50)
            assert listener.seqs == list(range(1, 51))


def test_without_a_session_the_connection_is_refused_in_words(start_fleet: StartFleet) -> None:
    (instance,) = start_fleet(1)
    client = socketio.Client(reconnection=False, handle_sigint=False)
    errors: list[object] = []
    client.on("connect_error", errors.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(instance.url, wait_timeout=5)
    wait_until(lambda: errors, what="connect_error")
    assert errors == [{"message": "unauthorized"}]


def test_logout_closes_the_sockets_of_that_session_on_every_instance(start_fleet: StartFleet) -> None:
    first, second = start_fleet(2)
    user = User(first).register()
    other = User(first)
    other.email = user.email
    assert other.log_in().status_code == 200
    with Listener(user) as mine, Listener(other) as others:
        mine.connect(second)
        others.connect(second)
        assert user.post("/api/auth/logout").status_code == 204
        assert mine.wait_for("session_ended", timeout=1) == {"reason": "signed_out"}
        wait_until(lambda: not mine.client.connected, what="the end of the socket")
        assert others.heard("session_ended") == []
        assert others.ask("sync", {"after": 0}) == {"items": [], "head": 0, "recovered": True}


def test_who_was_away_gets_what_was_missed_and_then_ready(start_fleet: StartFleet) -> None:
    first, second = start_fleet(2)
    user = User(first).register()
    notify(first, user, "--count", "250")
    with Listener(user, after=17) as listener:
        listener.connect(second)
        assert listener.seqs == list(range(18, 251))
        assert [name for name, _ in listener.events] == ["notification"] * 233 + ["ready"]
        ready = listener.heard("ready")[0]
        assert (ready["head"], ready["recovered"]) == (250, True)
