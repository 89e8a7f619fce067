"""Sockets on several instances with the official Python client: authentication, notifications and end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest
import requests
import socketio

from harness import web
from harness.fleet import Fleet
from harness.servers import Instance, PostgresServer, flask, wait_until
from harness.socket_pool import SocketPool
from harness.sockets import HANDSHAKE, Balancer, Listener, memory
from harness.users import PASSWORD, User
from tests.functional.conftest import StartFleet


def notify(instance: Instance, user: User, *options: str) -> list[int]:
    """Run `flask notify`; return the numbers that it printed."""
    output = flask(instance.environment, "notify", user.email, "hello", *options)
    return [int(line) for line in output.split()]


def another_browser(user: User) -> User:
    other = User(*user.instances)
    other.email = user.email
    assert other.log_in().status_code == 200
    return other


@pytest.fixture(scope="module")
def pair(postgres_server: PostgresServer) -> Iterator[list[Instance]]:
    with Fleet(postgres_server) as fleet:
        yield fleet.instances


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_notifications_arrive_in_order_on_every_instance(pair: list[Instance], transport: str) -> None:
    first, second = pair
    user = User(first).register()
    with Listener(user, transports=[transport]) as here, Listener(user, transports=[transport]) as there:
        here.connect(first)
        there.connect(second)
        assert here.received("ready")[0]["instance_id"] == "instance-1"
        assert notify(first, user, "--count", "50") == list(range(1, 51))
        for listener in (here, there):
            listener.wait_for("notification", 50)
            assert listener.seqs == list(range(1, 51))


def test_socket_without_a_session_is_refused_with_a_reason(pair: list[Instance]) -> None:
    instance, _ = pair
    errors: list[object] = []
    with requests.Session() as session:
        client = socketio.Client(reconnection=False, handle_sigint=False, http_session=session)
        client.on("connect_error", errors.append)
        with pytest.raises(socketio.exceptions.ConnectionError):
            client.connect(instance.url, transports=["polling"], wait_timeout=5)
    wait_until(lambda: errors, what="connect_error")
    assert errors == [{"message": "unauthorized"}]


def log_out(user: User) -> httpx.Response:
    return user.post("/api/auth/logout")


def revoke(user: User) -> httpx.Response:
    (session,) = [entry for entry in user.get("/api/auth/sessions").json()["sessions"] if entry["current"]]
    return another_browser(user).request("DELETE", f"/api/auth/sessions/{session['id']}")


def revoke_others(user: User) -> httpx.Response:
    return another_browser(user).request("DELETE", "/api/auth/sessions")


def change_password(user: User) -> httpx.Response:
    return another_browser(user).post("/api/auth/password", current_password=PASSWORD, new_password="a quiet green lantern")


def change_own_password(user: User) -> httpx.Response:
    """Change the password, which replaces the session of this browser."""
    return user.post("/api/auth/password", current_password=PASSWORD, new_password="a quiet green lantern")


def delete_account(user: User) -> httpx.Response:
    return another_browser(user).request("DELETE", "/api/auth/account", json={"password": PASSWORD})


ENDINGS = {
    log_out: "signed_out",
    revoke: "revoked",
    revoke_others: "revoked",
    change_password: "password_changed",
    change_own_password: "replaced",
    delete_account: "account_deleted",
    User.log_in: "replaced",
}


@pytest.mark.parametrize(("end", "reason"), ENDINGS.items(), ids=lambda value: getattr(value, "__name__", value))
def test_ending_a_session_closes_its_sockets_everywhere(
    pair: list[Instance], end: Callable[[User], httpx.Response], reason: str
) -> None:
    first, second = pair
    user = User(first).register()
    with ExitStack() as stack:
        kinds = [(server, [transport]) for server in (first, second) for transport in ("polling", "websocket")]
        listeners = [stack.enter_context(Listener(user, transports=kind)).connect(server) for server, kind in kinds]
        bystander = stack.enter_context(Listener(User(first).register())).connect(second)
        assert end(user).status_code in (200, 204)
        for listener in listeners:
            assert listener.wait_for("session_ended") == {"reason": reason}
            wait_until(lambda: listener.client.eio.state == "disconnected", what="the end of the connection")  # noqa: B023
            assert listener.client._reconnect_task is None
        assert bystander.call("sync", {"after": 0}) == {"items": [], "head": 0, "recovered": True}
        assert [listener.connections for listener in listeners] == [1] * 4


def test_other_sessions_of_the_user_keep_their_sockets(pair: list[Instance]) -> None:
    first, second = pair
    user = User(first).register()
    with Listener(user).connect(second) as mine, Listener(another_browser(user)).connect(second) as others:
        assert user.post("/api/auth/logout").status_code == 204
        assert mine.wait_for("session_ended") == {"reason": "signed_out"}
        assert others.call("sync", {"after": 0}) == {"items": [], "head": 0, "recovered": True}
        assert others.received("session_ended") == []


def test_session_end_without_a_message_is_found(start_fleet: StartFleet) -> None:
    first, second = start_fleet(2, application="tests.faults.session_endings_not_published:app")
    user, newcomer = User(first).register(), User(first).register()
    with Listener(user).connect(second) as listener, Listener(newcomer).connect(second) as other:
        assert user.post("/api/auth/logout").status_code == 204
        assert listener.wait_for("session_ended") == {"reason": "expired"}
        assert newcomer.post("/api/auth/password", current_password=PASSWORD, new_password="a calm grey stone").status_code == 204
        assert other.wait_for("session_ended") == {"reason": "expired"}


def test_expired_session_closes_its_sockets(start_fleet: StartFleet) -> None:
    (instance,) = start_fleet(1, SESSION_TTL="2")
    with Listener(User(instance).register()).connect(instance) as listener:
        assert listener.wait_for("session_ended") == {"reason": "expired"}


def test_stopping_instance_moves_its_clients_to_others(start_fleet: StartFleet) -> None:
    fleet = start_fleet(2, DRAIN_RATE="2")
    first, second = fleet
    with Balancer(fleet) as balancer, ExitStack() as stack:
        users = [User(first).register() for _ in range(8)]
        kinds = [["polling"], ["websocket"]] * 4
        listeners = [
            stack.enter_context(Listener(user, transports=kind)).connect(balancer)
            for user, kind in zip(users, kinds, strict=True)
        ]
        there = [listener for listener in listeners if listener.received("ready")[0]["instance_id"] == "instance-1"]
        assert 0 < len(there) < len(listeners)
        first.send(signal.SIGTERM)
        wait_until(lambda: any(listener.received("draining") for listener in there), what="the first farewell")
        if len(there) > 1:
            refused = web.get(f"{first.url}{HANDSHAKE}polling")
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        for listener in there:
            assert listener.wait_for("ready", 2)["instance_id"] == "instance-2"
            assert [name for name, _ in listener.events] == ["ready", "draining", "ready"]
        assert first.wait() == 0
        assert all(listener.connections == 1 for listener in listeners if listener not in there)
        assert notify(second, users[0]) == [1]
        listeners[0].wait_for("notification")


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_reconnecting_client_receives_missed_notifications_before_ready(pair: list[Instance], transport: str) -> None:
    first, second = pair
    user = User(first).register()
    notify(first, user, "--count", "250")
    with Listener(user, after=17, transports=[transport]) as listener:
        listener.connect(second)
        assert listener.seqs == list(range(18, 251))
        assert [name for name, _ in listener.events] == ["notification"] * 233 + ["ready"]
        ready = listener.received("ready")[0]
        assert (ready["head"], ready["recovered"]) == (250, True)


@pytest.mark.parametrize(("application", "is_little"), [("wsgi:app", True), ("tests.faults.greenlet_per_socket:app", False)])
def test_idle_socket_takes_little_memory(start_fleet: StartFleet, application: str, is_little: bool) -> None:
    (instance,) = start_fleet(1, application=application, MAX_SOCKETS_PER_USER="400")
    user = User(instance).register()
    with SocketPool(instance, user, 100):  # and what the first ones make once for all
        before = memory(instance)
        with SocketPool(instance, user, 200):
            assert ((memory(instance) - before) / 200 < 25_000) == is_little
