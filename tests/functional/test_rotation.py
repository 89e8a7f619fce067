"""A rolling restart rotates both secrets while users switch between old and new instances."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import httpx

from app.core.keyring import key_id
from harness.fleet import NO_RATE_LIMITS, start_together
from harness.scale import count
from harness.servers import Instance, fleet_environment, wait_until
from harness.users import User

INSTANCES = count(2, 3)


class Hopper(User):
    """A user with one request at a time, who can be moved to other instances between two requests."""

    def __init__(self, *instances: Instance) -> None:
        super().__init__(*instances)
        self._asking = threading.Lock()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._asking:
            return super().request(method, path, **options)

    def go_to(self, instances: list[Instance]) -> None:
        with self._asking:
            self.instances = list(instances)


@contextmanager
def hopping(users: list[Hopper]) -> Iterator[list[str]]:
    """Let users switch instances during the block; the list collects their failures."""
    faults: list[str] = []
    over = threading.Event()

    def hop(user: Hopper) -> None:
        while not over.wait(0.1):
            answer = user.get("/api/auth/me")
            if answer.status_code != 200:
                faults.append(f"{answer.headers['X-Instance-Id']}: {answer.status_code} {answer.text}")

    threads = [threading.Thread(target=hop, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    try:
        yield faults
    finally:
        over.set()
        for thread in threads:
            thread.join()


def gauge(instance: Instance, name: str, secret: str, key: bytes) -> float | None:
    metrics = User(instance).get("/metrics").text
    found = re.search(rf'^{name}\{{key_id="{key_id(key)}",secret="{secret}"\}} (.*)$', metrics, re.MULTILINE)
    return float(found[1]) if found else None


def wait_for_gauge(instance: Instance, name: str, secret: str, key: bytes, value: float) -> None:
    wait_until(lambda: gauge(instance, name, secret, key) == value, what=f"{name} of the {secret} key to be {value}")


def test_rolling_restart_rotates_both_secrets_without_signing_anyone_out(redis_url: str, database_url: str) -> None:
    rotate(redis_url, database_url)


def rotate(redis_url: str, database_url: str) -> None:
    old = fleet_environment(redis_url, database_url, **NO_RATE_LIMITS)
    encryption, signing = secrets.token_hex(32), secrets.token_hex(32)
    new = old | {
        "SESSION_ENCRYPTION_KEY": f"{encryption},{old['SESSION_ENCRYPTION_KEY']}",
        "SESSION_SECRET": f"{signing},{old['SESSION_SECRET']}",
    }
    old_key, new_key = bytes.fromhex(old["SESSION_ENCRYPTION_KEY"]), bytes.fromhex(encryption)
    with ExitStack() as stack:
        serving = start_together(stack, [Instance(old | {"INSTANCE_ID": f"instance-{n}"}) for n in range(INSTANCES)])
        users = [Hopper(*serving) for _ in range(2)]
        sleeper = Hopper(*serving)
        for user in (*users, sleeper):
            user.register()

        with hopping(users) as faults:
            for number in range(INSTANCES):
                replace(serving, users, stack, new | {"INSTANCE_ID": f"instance-{number}"})
            newcomer = Hopper(*serving)
            newcomer.register()
            assert gauge(serving[0], "reporadar_session_key_active", "encryption", old_key) == 1, (
                "the new key is not used at once"
            )
            for instance in serving:
                wait_for_gauge(instance, "reporadar_session_key_active", "encryption", new_key, 1)
            assert newcomer.is_signed_in()
        assert faults == []

        assert sum(gauge(serving[0], "reporadar_session_records", "encryption", key) or 0 for key in (old_key, new_key)) >= 1
        sleeper.go_to(serving)
        for user in (sleeper, newcomer, *users):
            assert [user.is_signed_in() for _ in range(2)] == [True, True]
        wait_for_gauge(serving[0], "reporadar_session_records", "encryption", old_key, 0)
        wait_for_gauge(serving[0], "reporadar_session_records", "signing", old["SESSION_SECRET"].encode(), 0)

        # Now the old keys may go, by another rolling restart.
        newest = new | {"SESSION_ENCRYPTION_KEY": encryption, "SESSION_SECRET": signing}
        everybody = [*users, sleeper, newcomer]
        for number in range(INSTANCES):
            replace(serving, everybody, stack, newest | {"INSTANCE_ID": f"instance-{number}"})
        assert all(user.is_signed_in() for user in everybody for _ in serving)


def test_instance_without_the_active_key_does_not_become_ready(redis_url: str, database_url: str) -> None:
    right = fleet_environment(redis_url, database_url)
    wrong = fleet_environment(redis_url, database_url)
    with Instance(right) as first, closing(Instance(wrong)) as second:
        second.start(wait_ready=False)
        wait_until(lambda: "not ready: this instance has no encryption and no signing key" in second.log())
        answer = User(second).get("/health/ready")
        assert answer.status_code == 503
        assert answer.json()["reasons"] == [
            "this instance has no encryption and no signing key that the fleet writes with:"
            " compare SESSION_ENCRYPTION_KEY and SESSION_SECRET"
        ]
        assert User(first).get("/health/ready").status_code == 200


def replace(serving: list[Instance], users: list[Hopper], stack: ExitStack, environment: dict[str, str]) -> None:
    """Replace an instance as an orchestrator does: remove it from traffic, stop it, and add the new one when it is ready."""
    leaving, *others = serving
    for user in users:
        user.go_to(others)
    leaving.terminate()
    serving[:] = [*others, stack.enter_context(Instance(environment))]
    for user in users:
        user.go_to(serving)
