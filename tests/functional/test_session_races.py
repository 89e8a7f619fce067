"""Two instances write to one session at the same time: no write is lost, and no ended session comes back.

One writer is held between reading and saving the session while the other one does all of its work in another process.
The same checks run against a store without the guard, where all of them have to fail.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any

import httpx
import pytest
import redis

from harness import scale
from harness.servers import Instance, RedisServer
from harness.users import client_without_cookies
from tests.functional.conftest import StartFleet

PAIRS = scale.count(150, 1000)
UNGUARDED_PAIRS = scale.count(20, 50)
AT_ONCE = 10

# What the held writer does, what the other one does, and what is left of a session that had `before`.
CASES = [
    ("set/slow", "set/fast", {"slow", "fast", "before"}),
    ("set/slow", "delete/before", {"slow"}),
    ("set/slow", "clear/-", {"slow"}),
    ("delete/before", "set/fast", {"fast"}),
    ("clear/-", "set/fast", {"fast"}),
]


@dataclass
class Race:
    """Races on a pair of instances."""

    slow: httpx.Client
    fast: httpx.Client
    redis: redis.Redis
    executor: ThreadPoolExecutor

    def new_session(self, path: str = "/held/set/before/-") -> str:
        answer = self.fast.post(path, content="value")
        assert answer.status_code == 204
        return session_cookie(answer)

    def run(self, cookie: str, slow_path: str, fast: Callable[[dict[str, str]], httpx.Response]) -> httpx.Response:
        """Let the slow request read the session before the fast one begins and save it after the fast one ends."""
        ticket, headers = uuid.uuid4().hex, {"Cookie": f"reporadar_session={cookie}"}
        slow = self.executor.submit(self.slow.post, f"{slow_path}/{ticket}", content="value", headers=headers)
        assert self.redis.blpop([f"test:reached:{ticket}"], 10)
        answer = fast(headers)
        self.redis.lpush(f"test:go:{ticket}", 1)
        assert slow.result().status_code == 204
        return answer

    def fields(self, cookie: str) -> set[str]:
        answer = self.fast.get("/fields", headers={"Cookie": f"reporadar_session={cookie}"})
        assert answer.status_code == 200
        return set(answer.json())


def session_cookie(answer: httpx.Response) -> str:
    cookies = SimpleCookie("; ".join(answer.headers.get_list("set-cookie")))
    return cookies["reporadar_session"].value


def lost_writes(race: Race, number: int) -> bool:
    slow_action, fast_action, expected = CASES[number % len(CASES)]
    cookie = race.new_session()
    race.run(
        cookie, f"/held/{slow_action}", lambda headers: race.fast.post(f"/held/{fast_action}/-", content="v", headers=headers)
    )
    return race.fields(cookie) != expected


def resurrections(race: Race, number: int) -> bool:
    """Race against a logout and a new session ID in turn; the new ID has to stay valid."""
    if number % 2:
        cookie = race.new_session()
        race.run(cookie, "/held/set/slow", lambda headers: race.fast.post("/api/auth/logout", headers=headers))
        return race.fields(cookie) != set()
    cookie = race.new_session("/sign-in/1")
    answer = race.run(cookie, "/held/set/slow", lambda headers: race.fast.post("/sign-in/1", headers=headers))
    assert "user_id" in race.fields(session_cookie(answer))
    return race.fields(cookie) != set()


def count(
    check: Callable[[Race, int], bool], instances: list[Instance], connect: Callable[[], AbstractContextManager[Any]], races: int
) -> int:
    """Return how many of the races went wrong. `connect` returns a client of the instances' Redis."""
    with (
        client_without_cookies() as slow,
        client_without_cookies() as fast,
        connect() as client,
        ThreadPoolExecutor(AT_ONCE) as slow_requests,
        ThreadPoolExecutor(AT_ONCE) as executor,
    ):
        slow.base_url, fast.base_url = httpx.URL(instances[0].url), httpx.URL(instances[1].url)
        registered = fast.post("/api/auth/register", json={"email": "a@example.org", "password": "correct horse battery"})
        assert registered.json()["user"]["id"] == 1
        race = Race(slow, fast, client, slow_requests)
        return sum(executor.map(lambda number: check(race, number), range(races)))


CHECKS = pytest.mark.parametrize("check", [lost_writes, resurrections], ids=["lost writes", "resurrections"])


@CHECKS
def test_no_write_is_lost_and_no_session_comes_back(
    start_fleet: StartFleet, redis_server: RedisServer, check: Callable[[Race, int], bool]
) -> None:
    instances = start_fleet(2, application="tests.faults.held_requests:app")
    assert count(check, instances, redis_server.client, PAIRS) == 0


@CHECKS
def test_every_race_goes_wrong_in_a_store_without_the_guard(
    start_fleet: StartFleet, redis_server: RedisServer, check: Callable[[Race, int], bool]
) -> None:
    instances = start_fleet(2, application="tests.faults.unguarded_sessions:app")
    assert count(check, instances, redis_server.client, UNGUARDED_PAIRS) == UNGUARDED_PAIRS
