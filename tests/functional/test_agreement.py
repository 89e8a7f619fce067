"""An instance whose configuration does not match the fleet does not become ready and says why; ready instances stay ready."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from harness import web
from harness.servers import Instance, PostgresServer, RedisServer, migrate, promote, wait_until
from harness.users import User
from tests.functional.conftest import StartFleet


@contextmanager
def newcomer(of: Instance, **settings: str) -> Iterator[Instance]:
    instance = Instance({**of.environment, "INSTANCE_ID": "newcomer", **settings})
    try:
        instance.start(wait_ready=False)
        yield instance
    finally:
        instance.close()


def reasons(instance: Instance) -> list[str]:
    try:
        found: list[str] = web.get(f"{instance.url}/health/ready").json()["reasons"]
    except httpx.TransportError:
        return []
    return found


def disagreements(admin: User) -> list[tuple[str, list[str]]]:
    found: list[dict[str, Any]] = admin.get("/api/fleet").json()["disagreements"]
    return [(one["kind"], one["instance_ids"]) for one in found]


def test_mismatching_instance_does_not_become_ready(start_fleet: StartFleet, postgres_server: PostgresServer) -> None:
    (elder,) = start_fleet(1)
    admin = User(elder).register()
    promote(elder.environment, admin.email)
    elsewhere = postgres_server.create_database()
    migrate({**elder.environment, "DATABASE_URL": elsewhere})
    with RedisServer() as other_redis:
        cases = [
            ({"REDIS_URL": other_redis.url}, "this instance uses another Redis than instance-1", ("redis", ["newcomer"])),
            ({"DATABASE_URL": elsewhere}, "this instance uses another database than instance-1", ("database", ["newcomer"])),
            ({"INSTANCE_ID": "instance-1"}, "INSTANCE_ID instance-1 is in use by process", ("instance_id", ["instance-1"])),
        ]
        for settings, reason, disagreement in cases:
            with newcomer(elder, **settings) as instance:
                wait_until(lambda: any(reason in one for one in reasons(instance)), what=reason)  # noqa: B023
                wait_until(lambda: disagreement in disagreements(admin), what=f"the fleet to say {disagreement}")  # noqa: B023
                wait_until(lambda: reason in instance.log(), what="the log to say so")  # noqa: B023
                assert reasons(elder) == []
    postgres_server.drop_database(elsewhere)
    with newcomer(elder) as instance:
        instance.wait_ready()
        wait_until(lambda: disagreements(admin) == [], what="the others to be forgotten")
