"""Redis and PostgreSQL are killed, frozen and restarted while an instance runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from harness.fleet import Fleet
from harness.machine import Machine
from harness.servers import Instance, Server, wait_until
from harness.users import PASSWORD, User

QUICK_SECONDS = 2.0
POOL_SIZE = 5  # DATABASE_POOL_SIZE
HEALTH_PATHS = ("/health", "/health/ready", "/health/live")


class StoreFleet(Fleet):
    """One instance on stores that the tests stop."""

    def __init__(self) -> None:
        super().__init__(size=1)

    @property
    def instance(self) -> Instance:
        return self.instances[0]

    def wait_for_heartbeat(self) -> None:
        """Wait until the instance has recovered from an earlier outage."""
        with self.redis.commands() as commands:
            wait_until(lambda: any("fleet:instances" in command.text for command in commands), what="a heartbeat")

    def store(self, name: str) -> Server:
        return {"redis": self.redis, "database": self.postgres}[name]


@pytest.fixture(scope="module")
def fleet() -> Iterator[StoreFleet]:
    with StoreFleet() as fleet:
        yield fleet


@contextmanager
def broken(store: Server, how: str) -> Iterator[None]:
    if how == "killed":
        store.kill()
    else:
        store.freeze()
    try:
        yield
    finally:
        if how == "killed":
            store.start()
        else:
            store.resume()


def timed(user: User, method: str, path: str, **options: object) -> httpx.Response:
    started = time.monotonic()
    answer = user.request(method, path, **options)
    assert time.monotonic() - started < QUICK_SECONDS, f"{path} took {time.monotonic() - started:.1f} s"
    return answer


def checks_of_stores(user: User) -> list[dict[str, Any]]:
    checks = timed(user, "GET", "/health").json()["checks"]
    return [checks["database"], checks["redis"]]


def assert_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["X-Instance-Id"] == "instance-1"
    assert answer.json()["status"] == 503


BREAKAGES = pytest.mark.parametrize("how", ["killed", "frozen"])
STORES = pytest.mark.parametrize("name", ["redis", "database"])


@BREAKAGES
def test_session_routes_answer_503_quickly_without_redis(fleet: StoreFleet, how: str) -> None:
    user, stranger = User(fleet.instance).register(), User(fleet.instance)
    with broken(fleet.redis, how):
        assert_unavailable(timed(user, "GET", "/api/auth/me"))
        assert_unavailable(timed(user, "POST", "/api/auth/logout"))
        assert_unavailable(timed(stranger, "POST", "/api/auth/login", json={"email": user.email, "password": PASSWORD}))
        assert timed(user, "GET", "/").status_code == 503
        for path in ("/login", "/register", "/api/openapi.json", *HEALTH_PATHS[2:]):
            assert timed(user, "GET", path).status_code == 200
        assert timed(stranger, "GET", "/").status_code == 200
        assert timed(stranger, "GET", "/api/auth/me").status_code == 401
    assert user.is_signed_in(), "back at once, and nobody is signed out"


@BREAKAGES
def test_database_routes_answer_503_quickly_without_the_database(fleet: StoreFleet, how: str) -> None:
    user, stranger = User(fleet.instance).register(), User(fleet.instance)
    with broken(fleet.postgres, how):
        assert_unavailable(timed(user, "GET", "/api/auth/me"))
        assert_unavailable(timed(stranger, "POST", "/api/auth/login", json={"email": user.email, "password": PASSWORD}))
        assert timed(stranger, "GET", "/").status_code == 200
        assert timed(user, "POST", "/api/auth/logout").status_code == 204
    assert user.log_in().status_code == 200


def browsers_of(user: User, count: int) -> list[User]:
    """Return clients with separate connections: in a shared pool, httpx may close a connection that another thread uses."""
    browsers = [User(*user.instances, timeout=30) for _ in range(count)]
    for browser in browsers:
        browser.client.cookies.update(user.client.cookies)
    return browsers


@pytest.mark.serial
@STORES
@BREAKAGES
def test_many_clients_get_503_quickly(fleet: StoreFleet, machine: Machine, name: str, how: str) -> None:
    crowd = browsers_of(User(fleet.instance).register(), 60)
    with broken(fleet.store(name), how), ThreadPoolExecutor(len(crowd)) as executor:
        answers = list(executor.map(lambda one: one.get("/api/auth/me"), crowd * 3))
    assert [answer.status_code for answer in answers] == [503] * 180
    assert max(answer.elapsed.total_seconds() for answer in answers) < machine.limit(QUICK_SECONDS)


def test_health_reports_two_hanging_stores(fleet: StoreFleet) -> None:
    user = User(fleet.instance).register()
    with broken(fleet.redis, "frozen"), broken(fleet.postgres, "frozen"):
        wait_until(lambda: {check["status"] for check in checks_of_stores(user)} == {"fail"}, what="health to say so")
        assert {check["reason"] for check in checks_of_stores(user)} == {"no_answer"}
        with ThreadPoolExecutor(20) as executor:
            statuses = list(executor.map(lambda path: timed(user, "GET", path).status_code, HEALTH_PATHS * 100))
    assert set(statuses) <= {200, 503}
    wait_until(lambda: {check["status"] for check in checks_of_stores(user)} == {"pass"}, what="health to pass again")


@STORES
def test_instance_is_unready_after_ten_seconds_and_ready_within_two(fleet: StoreFleet, name: str) -> None:
    user = User(fleet.instance)

    def is_ready() -> bool:
        return user.get("/health/ready").status_code == 200

    fleet.wait_for_heartbeat()
    wait_until(is_ready, what="the instance to be in order")
    started = time.monotonic()
    with broken(fleet.store(name), "killed"):
        wait_until(lambda: user.get("/health").json()["checks"][name]["status"] == "fail", what="health to notice")
        assert is_ready()
        wait_until(lambda: not is_ready(), timeout=15, what="readiness to turn")
        assert time.monotonic() - started > 10
        assert name in user.get("/health/ready").json()["reasons"][0]
        assert user.get("/health/live").status_code == 200
    wait_until(is_ready, timeout=2, what="readiness to come back")


def test_statements_that_wait_for_a_lock_do_not_accumulate(fleet: StoreFleet) -> None:
    user = User(fleet.instance, timeout=30).register()
    with fleet.postgres.locked_table(fleet.instance.environment["DATABASE_URL"], "users"), ThreadPoolExecutor(10) as executor:
        answers = list(executor.map(lambda _: timed(user, "GET", "/api/auth/me"), range(60)))
        # PostgreSQL ends the last statements that the instance has given up. They would wait as long as the table is locked.
        wait_until(lambda: len(fleet.postgres.backends("instance-1")) <= POOL_SIZE, timeout=5, what="the statements to end")
    assert {answer.status_code for answer in answers} == {503}
    assert user.is_signed_in()


def test_probe_rate_is_independent_of_the_request_rate(fleet: StoreFleet) -> None:
    user = User(fleet.instance)
    with fleet.redis.commands() as commands:
        started = time.monotonic()
        for _ in range(200):
            assert user.get("/health").status_code == 200
        seconds = time.monotonic() - started
    assert sum(command.text == "PING" for command in commands) <= seconds / 0.5 + 2  # the message queue sends one as well


def test_connections_carry_the_instance_name(fleet: StoreFleet) -> None:
    assert User(fleet.instance).register().is_signed_in()
    with fleet.redis.client() as client:
        assert "instance-1" in {connection["name"] for connection in client.client_list()}
    assert fleet.postgres.backends("instance-1")
