"""Sessions on several instances: their Redis commands, their encryption, and damaged records."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from harness import web
from harness.fleet import Fleet
from harness.servers import Command, PostgresServer, RedisServer, wait_until
from harness.users import PASSWORD, User
from tests.functional.conftest import StartFleet


def commands_of_requests(commands: list[Command]) -> list[str]:
    """Return the commands without those of background tasks and without those inside Lua scripts."""
    background = ("PING", "CLIENT", "SELECT", "TIME", "INFO", "SCRIPT", "fleet:", "analytics:")
    return [
        command.text for command in commands if command.client != "lua" and not any(word in command.text for word in background)
    ]


@pytest.fixture(scope="module")
def fleet(postgres_server: PostgresServer) -> Iterator[Fleet]:
    with Fleet(postgres_server, size=3) as fleet:
        yield fleet


def test_user_is_signed_in_on_every_instance(fleet: Fleet) -> None:
    user = User(*fleet.instances).register()
    answers = [user.get("/api/auth/me") for _ in range(9)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["X-Instance-Id"] for answer in answers} == {"instance-1", "instance-2", "instance-3"}
    assert {answer.json()["instance"]["instance_id"] for answer in answers} == {"instance-1", "instance-2", "instance-3"}


def test_reading_a_session_takes_one_round_trip_and_no_write(fleet: Fleet) -> None:
    user = User(fleet.instances[0]).register()
    with fleet.redis.commands() as commands:
        assert user.is_signed_in()
    assert [text.split()[0] for text in commands_of_requests(commands)] == ["HGETALL"]


def test_invalid_cookie_causes_no_redis_command(fleet: Fleet) -> None:
    instance = fleet.instances[0]
    user, inventor = User(instance), User(instance)
    inventor.client.cookies["reporadar_session"] = "A" * 43 + ".AAAA"
    with fleet.redis.commands() as commands:
        for path in ("/api/auth/me", "/", "/health", "/health/ready", "/health/live"):
            user.get(path)
            inventor.get(path)
    assert commands_of_requests(commands) == []


def test_health_routes_do_not_read_sessions(fleet: Fleet) -> None:
    user = User(fleet.instances[0]).register()
    with fleet.redis.commands() as commands:
        for path in ("/health", "/health/ready", "/health/live"):
            assert user.get(path).status_code == 200
    assert commands_of_requests(commands) == []


def test_session_lifetime_is_refreshed_at_most_once_per_24th(start_fleet: StartFleet, redis_server: RedisServer) -> None:
    user = User(*start_fleet(2, SESSION_TTL="72")).register()
    with redis_server.commands() as commands:
        requests = 0
        while not (refreshes := [one for one in commands if one.client == "lua" and one.text.startswith("EXPIRE session:")]):
            assert user.is_signed_in()
            requests += 1
        for _ in range(50):
            assert user.is_signed_in()
    assert requests > 50
    assert len(refreshes) == 1


def test_idle_session_expires(start_fleet: StartFleet, redis_server: RedisServer) -> None:
    user = User(*start_fleet(1, SESSION_TTL="1")).register()
    with redis_server.client() as client:
        wait_until(lambda: not client.keys("session:*"), what="the session to end")
    assert not user.is_signed_in()


def test_active_session_expires_at_its_maximum_age(start_fleet: StartFleet) -> None:
    user = User(*start_fleet(1, SESSION_MAX_AGE="3")).register()
    assert user.is_signed_in()
    wait_until(lambda: not user.is_signed_in(), what="the session to end")


def test_redis_contains_no_session_id_and_no_plain_text(fleet: Fleet) -> None:
    users = [User(*fleet.instances).register() for _ in range(3)]
    assert users[0].log_in("a wrong password").status_code == 401
    for user in users:
        assert user.is_signed_in()
    dump = fleet.redis.dump()
    assert b"session:" in dump
    for user in users:
        session_id = user.cookie.split(".")[0]
        for secret in (user.cookie, session_id, user.email, user.email.split("@")[0], PASSWORD, "python-httpx"):
            assert secret.encode() not in dump, secret


def test_login_and_password_change_replace_the_session_id(fleet: Fleet) -> None:
    instances = fleet.instances
    user = User(*instances).register()
    steps: list[Callable[[], object]] = [
        user.log_in,
        lambda: user.post("/api/auth/password", current_password=PASSWORD, new_password="another long password"),
        lambda: user.post("/api/auth/register", email="second@example.org", password=PASSWORD),
    ]
    for step in steps:
        before = user.cookie
        step()
        assert user.cookie != before
        assert user.is_signed_in()
        holder_of_the_old = User(*instances)
        holder_of_the_old.client.cookies["reporadar_session"] = before
        assert [holder_of_the_old.is_signed_in() for _ in instances] == [False] * 3


def test_password_change_does_not_sign_out_a_browser_that_loads_a_page(fleet: Fleet) -> None:
    """A response to the old session must not delete the cookie of the new one."""
    instances = fleet.instances[:2]
    user = User(*instances).register()
    with ThreadPoolExecutor(4) as executor:
        for number in range(10):
            old = {"Cookie": user.cookie_header}
            pages = [executor.submit(web.get, one.url + "/api/auth/me", headers=old) for one in instances * 4]
            before, after = (PASSWORD if number == 0 else f"a good password {number}"), f"a good password {number + 1}"
            answer = user.post("/api/auth/password", current_password=before, new_password=after)
            assert answer.status_code == 204
            assert not [page for page in pages if "reporadar_session=;" in page.result().headers.get("Set-Cookie", "")]
    assert user.is_signed_in()


def test_id_of_a_cookie_without_a_record_is_not_reused(fleet: Fleet) -> None:
    user = User(*fleet.instances).register()
    old = user.cookie
    assert user.post("/api/auth/logout").status_code == 204
    user.client.cookies["reporadar_session"] = old
    answer = user.log_in()
    assert answer.status_code == 200
    assert old.split(".")[0] not in answer.headers["Set-Cookie"]


class Payload:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def flipped(sealed: bytes, position: int) -> bytes:
    return sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :]


Damage = Callable[[Any, bytes, bytes, Path], object]  # of a record, given another one and a file that must not appear
DAMAGES: dict[str, Damage] = {
    "a flipped bit in the text": lambda client, key, _, __: client.hset(key, "user_id", flipped(client.hget(key, "user_id"), -1)),
    "a flipped bit in the key id": lambda client, key, _, __: client.hset(
        key, "user_id", flipped(client.hget(key, "user_id"), 3)
    ),
    "another field": lambda client, key, _, __: client.hset(key, "user_id", client.hget(key, "password_version")),
    "another record's field": lambda client, key, other, __: client.hset(key, "user_id", client.hget(other, "user_id")),
    "another record": lambda client, key, other, __: (client.delete(key), client.copy(other, key)),
    "garbage": lambda client, key, _, __: client.hset(key, "user_id", b"garbage"),
    "an empty field": lambda client, key, _, __: client.hset(key, "user_id", b""),
    "a missing field": lambda client, key, _, __: client.hdel(key, ".created"),
    "an added field": lambda client, key, _, __: client.hset(key, "is_admin", b"\xc3"),
    "another type": lambda client, key, _, __: client.set(key, b'{"user_id": 1}'),
    "a pickle": lambda client, key, _, mark: client.set(key, pickle.dumps(Payload(mark))),
    "a pickled field": lambda client, key, _, mark: client.hset(key, "user_id", pickle.dumps(Payload(mark))),
}


def rejections(user: User) -> float:
    found = re.findall(r"^reporadar_session_integrity_failures_total\{.*\} (.*)$", user.get("/metrics").text, re.MULTILINE)
    return sum(map(float, found))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_damaged_record_is_counted_and_starts_a_new_session(fleet: Fleet, tmp_path: Path, damage: Damage) -> None:
    instance, server = fleet.instances[0], fleet.redis
    mark = tmp_path / "mark"
    server.flush()
    other, user = User(instance).register(), User(instance)
    before = rejections(user)
    with redis.Redis.from_url(server.url) as client:
        (other_key,) = client.keys("session:*")
        user.register()
        (key,) = set(client.keys("session:*")) - {other_key}
        damage(client, key, other_key, mark)
        assert not user.is_signed_in()
        assert not client.exists(key)
    assert rejections(user) == before + 1
    assert not mark.exists()
    assert other.is_signed_in()
    assert user.log_in().status_code == 200
    assert user.is_signed_in()
