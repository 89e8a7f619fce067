"""Counts of stored events reach the administrators on every instance, completely and at a limited rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.core import config
from app.core.keyring import Keyring
from app.core.messages import ANALYTICS_ROOM, Message
from app.realtime.publisher import RedisPublisher
from app.redis.client import connect
from harness.servers import Instance, PostgresServer, RedisServer, fleet_environment, promote, wait_until
from harness.sockets import Listener
from harness.users import User

REFUSED = {"ok": False, "error": "This is for administrators."}


@pytest.fixture(scope="module")
def environment(postgres_server: PostgresServer) -> Iterator[dict[str, str]]:
    with RedisServer() as redis:
        environment = fleet_environment(redis.url, postgres_server.create_database())
        yield environment


@pytest.fixture(scope="module")
def instances(environment: dict[str, str]) -> Iterator[list[Instance]]:
    with Instance(environment) as one, Instance(environment) as two:
        yield [one, two]


def heard(listener: Listener) -> list[int]:
    return [data["count"] for data in listener.received("events_stored")]


def test_each_instance_sends_all_counts_to_its_administrators(environment: dict[str, str], instances: list[Instance]) -> None:
    settings = config.load(environment)
    signing = Keyring("signing", tuple(secret.encode() for secret in settings.session_secret))
    users = [User(instance).register() for instance in instances]
    for user in users:
        promote(environment, user.email)
    with Listener(users[0]) as one, Listener(users[1]) as two, connect(settings, "test") as client:
        for listener, instance in zip((one, two), instances, strict=True):
            assert listener.connect(instance).call("watch_analytics", {}) == {"ok": True}
        for _ in range(200):
            RedisPublisher(client, signing).publish([Message(ANALYTICS_ROOM, "events_stored", {"count": 7})])
        for listener in (one, two):
            wait_until(lambda: sum(heard(listener)) >= 1400, what="all to be told")  # noqa: B023 - called at once
            assert sum(heard(listener)) == 1400
            assert len(heard(listener)) < 200


@pytest.mark.parametrize("payload", [{}, None, {"user_id": 1}])
def test_other_users_receive_no_counts(instances: list[Instance], payload: Any) -> None:
    with Listener(User(instances[0]).register()) as listener:
        assert listener.connect(instances[0]).call("watch_analytics", payload) == REFUSED
