"""Redis and PostgreSQL are killed, frozen and brought back under a running instance."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

from harness.servers import Instance, PostgresServer, RedisServer, Server, fleet_environment, wait_until
from harness.users import PASSWORD, User
from tests.functional.conftest import GENEROUS

QUICK_SECONDS = 2.0
POOL_SIZE = 5  # DATABASE_POOL_SIZE
HEALTH_PATHS = ("/health", "/health/ready", "/health/live")


@dataclass
class Stack:
    redis: RedisServer
    postgres: PostgresServer
    instance: Instance

    def wait_for_heartbeat(self) -> None:
        """What an outage has left behind is over then."""
        with self.redis.commands() as commands:
            wait_until(lambda: any("fleet:instances" in command.text for command in commands), what="a heartbeat")

    def store(self, name: str) -> Server:
        return {"redis": self.redis, "database": self.postgres}[name]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with RedisServer() as redis, PostgresServer() as postgres:
        environment = fleet_environment(redis.url, postgres.create_database(), **GENEROUS)
        with Instance({**environment, "INSTANCE_ID": "instance-1"}) as instance:
            yield Stack(redis, postgres, instance)


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


def statuses_of_checks(user: User) -> set[str]:
    return {check["status"] for check in timed(user, "GET", "/health").json()["checks"].values()}


def assert_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["X-Instance-Id"] == "instance-1"
    assert answer.json()["status"] == 503


BREAKAGES = pytest.mark.parametrize("how", ["killed", "frozen"])
STORES = pytest.mark.parametrize("name", ["redis", "database"])


@BREAKAGES
def test_without_redis_what_needs_a_session_is_a_quick_503_and_the_rest_works(stack: Stack, how: str) -> None:
    user, stranger = User(stack.instance).register(), User(stack.instance)
    with broken(stack.redis, how):
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
def test_without_the_database_answers_are_a_quick_503(stack: Stack, how: str) -> None:
    user, stranger = User(stack.instance).register(), User(stack.instance)
    with broken(stack.postgres, how):
        assert_unavailable(timed(user, "GET", "/api/auth/me"))
        assert_unavailable(timed(stranger, "POST", "/api/auth/login", json={"email": user.email, "password": PASSWORD}))
        assert timed(stranger, "GET", "/").status_code == 200
        assert timed(user, "POST", "/api/auth/logout").status_code == 204
    assert user.log_in().status_code == 200


def browsers_of(user: User, count: int) -> list[User]:
    """Each with connections of its own: in a pool that many threads share, httpx may close one that another thread waits on."""
    browsers = [User(*user.instances, timeout=30) for _ in range(count)]
    for browser in browsers:
        browser.client.cookies.update(user.client.cookies)
    return browsers


@STORES
@BREAKAGES
def test_a_crowd_gets_its_503_as_quickly(stack: Stack, name: str, how: str) -> None:
    crowd = browsers_of(User(stack.instance).register(), 60)
    with broken(stack.store(name), how), ThreadPoolExecutor(len(crowd)) as executor:
        statuses = list(executor.map(lambda one: timed(one, "GET", "/api/auth/me").status_code, crowd * 3))
    assert statuses == [503] * 180


def test_health_answers_while_both_stores_hang_and_tells_it(stack: Stack) -> None:
    user = User(stack.instance).register()
    with broken(stack.redis, "frozen"), broken(stack.postgres, "frozen"):
        wait_until(lambda: statuses_of_checks(user) == {"fail"}, what="health to say so")
        with ThreadPoolExecutor(20) as executor:
            statuses = list(executor.map(lambda path: timed(user, "GET", path).status_code, HEALTH_PATHS * 100))
    assert set(statuses) <= {200, 503}
    wait_until(lambda: timed(user, "GET", "/health").json()["status"] == "pass", what="health to pass again")


@STORES
def test_ten_seconds_of_failure_unready_the_instance_and_recovery_readies_it_within_two(stack: Stack, name: str) -> None:
    user = User(stack.instance)

    def is_ready() -> bool:
        return user.get("/health/ready").status_code == 200

    stack.wait_for_heartbeat()
    wait_until(is_ready, what="the instance to be in order")
    started = time.monotonic()
    with broken(stack.store(name), "killed"):
        wait_until(lambda: user.get("/health").json()["checks"][name]["status"] == "fail", what="health to notice")
        assert is_ready()
        wait_until(lambda: not is_ready(), timeout=15, what="readiness to turn")
        assert time.monotonic() - started > 10
        assert name in user.get("/health/ready").json()["reasons"][0]
        assert user.get("/health/live").status_code == 200
    wait_until(is_ready, timeout=2, what="readiness to come back")


def test_statements_that_wait_for_a_lock_do_not_pile_up(stack: Stack) -> None:
    user = User(stack.instance, timeout=30).register()
    with stack.postgres.locked_table(stack.instance.environment["DATABASE_URL"], "users"), ThreadPoolExecutor(10) as executor:
        answers = list(executor.map(lambda _: timed(user, "GET", "/api/auth/me"), range(60)))
        assert len(stack.postgres.backends("instance-1")) <= 2 * POOL_SIZE
    assert {answer.status_code for answer in answers} == {503}
    assert user.is_signed_in()


def test_one_probe_at_a_time_whatever_the_rate_of_requests(stack: Stack) -> None:
    user = User(stack.instance)
    with stack.redis.commands() as commands:
        started = time.monotonic()
        for _ in range(200):
            assert user.get("/health").status_code == 200
        seconds = time.monotonic() - started
    assert sum(command.text == "PING" for command in commands) <= seconds / 0.5 + 1


def test_shared_resources_show_who_uses_them(stack: Stack) -> None:
    assert User(stack.instance).register().is_signed_in()
    with stack.redis.client() as client:
        assert "instance-1" in {connection["name"] for connection in client.client_list()}
    assert stack.postgres.backends("instance-1")
