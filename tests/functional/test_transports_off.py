"""The essential promises without the hand-written transport: gunicorn and redis-py serve everything."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from harness import web
from harness.fleet import NO_RATE_LIMITS, start_together
from harness.processes import wait_until
from harness.servers import Instance, PostgresServer, RedisServer, fleet_environment
from harness.sockets import Listener
from harness.users import User

OFF = {"PLAIN_HTTP": "false", "SHARED_REDIS_CONNECTION": "false"}
SESSIONS = 5


@pytest.fixture(scope="module")
def pair(redis_server: RedisServer, postgres_server: PostgresServer) -> Iterator[list[Instance]]:
    environment = fleet_environment(redis_server.url, postgres_server.create_database(), **NO_RATE_LIMITS, **OFF)
    with ExitStack() as stack:
        yield start_together(stack, [Instance({**environment, "INSTANCE_ID": f"instance-{n}"}) for n in (1, 2)])


def test_sessions_are_shared_and_revoked_on_both_instances(pair: list[Instance]) -> None:
    users = [User(*pair).register() for _ in range(SESSIONS)]
    assert [user.is_signed_in() for user in users for _ in pair] == [True] * 2 * SESSIONS
    for user in users:
        assert user.post("/api/auth/logout").status_code == 204
    assert [user.is_signed_in() for user in users for _ in pair] == [False] * 2 * SESSIONS


def test_events_are_accepted_and_an_opt_out_is_applied(pair: list[Instance]) -> None:
    user = User(*pair).register()
    events = [{"name": "report_viewed", "category": "test"}]
    assert user.post("/api/analytics/events", events=events).json()["opted_out"] is False
    assert user.request("PUT", "/api/analytics/opt-out").json()["opted_out"] is True
    assert [user.post("/api/analytics/events", events=events).json()["opted_out"] for _ in pair] == [True, True]


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_sockets_receive_notifications_and_end_with_their_session(pair: list[Instance], transport: str) -> None:
    first, second = pair
    user = User(first).register()
    with Listener(user, transports=[transport]).connect(second) as listener:
        assert listener.call("sync", {"after": 0}) == {"items": [], "head": 0, "recovered": True}
        assert user.post("/api/auth/logout").status_code == 204
        assert listener.wait_for("session_ended") == {"reason": "signed_out"}


def test_keep_alive_connection_serves_several_requests(pair: list[Instance]) -> None:
    request = f"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1:{pair[0].port}\r\n\r\n".encode()
    with closing(socket.create_connection(("127.0.0.1", pair[0].port), timeout=10)) as client:
        client.sendall(request * 3)
        received = b""
        while received.count(b"HTTP/1.1 200 OK\r\n") < 3:
            data = client.recv(65_536)
            assert data, "the connection was closed"
            received += data


def test_errors_have_the_same_form(pair: list[Instance]) -> None:
    response = web.get(f"{pair[0].url}/api/nowhere")
    assert (response.status_code, response.headers["Content-Type"]) == (404, "application/problem+json")
    assert response.headers["X-Instance-Id"] == "instance-1"


def test_redis_outage_is_503_until_redis_is_back(pair: list[Instance], redis_server: RedisServer) -> None:
    user = User(*pair).register()
    with redis_server.lost("freeze"):
        response = user.get("/api/auth/me")
    assert (response.status_code, "Retry-After" in response.headers) == (503, True)
    wait_until(lambda: user.get("/api/auth/me").status_code == 200, what="Redis to be available again")


def test_instance_stops_cleanly(pair: list[Instance]) -> None:
    instance = pair[1]
    with web.client(base_url=instance.url) as kept:
        assert kept.get("/health/live").headers["Connection"] == "keep-alive"
        os.kill(instance.pid, signal.SIGTERM)
        assert instance.wait() == 0
    assert re.search(r"stopped: clean in ", instance.log())
