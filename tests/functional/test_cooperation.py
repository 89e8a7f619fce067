"""Slow queries and connections with pipelined requests do not block other clients."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.machine import Machine
from harness.servers import Instance, embedded_environment, fleet_environment, migrate
from harness.users import User, client_without_cookies

MakeEnvironment = Callable[[], dict[str, str]]


@pytest.fixture(params=["postgresql", "sqlite"])
def make_environment(request: pytest.FixtureRequest, tmp_path: Path) -> MakeEnvironment:
    def make() -> dict[str, str]:
        if request.param == "sqlite":
            return embedded_environment(tmp_path)
        return fleet_environment(request.getfixturevalue("redis_url"), request.getfixturevalue("database_url"))

    return make


def answers_during_slow_queries(environment: dict[str, str], application: str, queries: int = 3) -> int:
    """Return how many sequential quick requests were answered during the slow ones."""
    migrate(environment)
    with Instance(environment, application=application) as instance, client_without_cookies() as client:
        user = User(instance)
        with ThreadPoolExecutor(queries) as executor:
            slow = [executor.submit(client.get, f"{instance.url}/slow") for _ in range(queries)]
            answers = 0
            while not all(request.done() for request in slow):
                assert user.get("/health/live").status_code == 200
                answers += 1
        assert [request.result().status_code for request in slow] == [204] * queries
        return answers


@pytest.mark.serial
def test_slow_queries_do_not_block_other_requests(make_environment: MakeEnvironment, machine: Machine) -> None:
    answers = answers_during_slow_queries(make_environment(), "tests.faults.slow_queries:app")
    assert answers > 50 / machine.limit(1)


def test_blocking_queries_are_detected(redis_url: str, database_url: str) -> None:
    environment = fleet_environment(redis_url, database_url)
    assert answers_during_slow_queries(environment, "tests.faults.blocking_queries:app") < 15


REQUESTS = 1000  # sent at once over one connection; they take half a second or more


def all_at_once(port: int) -> int:
    """Send all requests at once and return how many were answered with 200."""
    request = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    last = request.replace(b"Host:", b"Connection: close\r\nHost:")
    with socket.create_connection(("127.0.0.1", port)) as connection, ThreadPoolExecutor(1) as executor:
        sending = executor.submit(connection.sendall, request * (REQUESTS - 1) + last)
        answers = b"".join(iter(lambda: connection.recv(65536), b""))
        sending.result()
    return answers.count(b"HTTP/1.1 200 ")


def answers_beside_a_greedy_connection(environment: dict[str, str], application: str) -> int:
    migrate(environment)
    with Instance(environment, application=application) as instance, client_without_cookies() as client:
        with ThreadPoolExecutor(1) as executor:
            greedy = executor.submit(all_at_once, instance.port)
            answers = 0
            while not greedy.done():
                assert client.get(f"{instance.url}/health/live").status_code == 200
                answers += 1
        assert greedy.result() == REQUESTS
        return answers


@pytest.mark.serial
def test_greedy_connection_does_not_block_others(tmp_path: Path) -> None:
    assert answers_beside_a_greedy_connection(embedded_environment(tmp_path), "wsgi:app") > 10


@pytest.mark.serial
def test_greedy_connection_without_yielding_is_detected(tmp_path: Path) -> None:
    assert answers_beside_a_greedy_connection(embedded_environment(tmp_path), "tests.faults.greedy_connections:app") < 5
