"""One instance and several: what a request and a message cost all of them and their stores, and what they cost idle."""

from __future__ import annotations

import secrets
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import NamedTuple, Self

import redis

from app.fleet.store import Registry
from bench.growth.fleet import MeasuredFleet, fleet, load, spent
from bench.growth.series import Line, Panel, Series
from harness.servers import Instance, RedisServer, flask
from harness.sockets import WebSocket
from harness.users import User

MOST = 4
ROUNDS = 3
LOAD_SECONDS, IDLE_SECONDS = 1.5, 4.0
CONNECTIONS = 8  # more would wait too long for one of the five to the database
MESSAGES, TITLE = 600, "The analysis of example has finished"
REGISTERED = (1, 10, 30, 100)
BEATS = 300


class Cpu(NamedTuple):
    """Of the instances, all together, and of their stores. Seconds, or shares of a processor."""

    instances: float
    redis: float
    postgres: float


def measure() -> Series:
    asked = [Line("instances"), Line("Redis"), Line("PostgreSQL")]
    told = [Line("instances"), Line("Redis"), Line("PostgreSQL")]
    idle = [Line("instance"), Line("Redis"), Line("PostgreSQL")]
    with ExitStack() as stack:
        fleets = [Many.started(stack, size) for size in range(1, MOST + 1)]
        for _ in range(ROUNDS):  # in which the sizes take turns: the machine is not as quick in each minute
            for many in fleets:
                size, resting = len(many.instances), many.rest()
                _add(idle, size, resting, 1e3 / size)
                _add(asked, size, *many.ask(resting))
                _add(told, size, *many.tell(resting))
    panels = [
        Panel("request of a user", "us of CPU", asked),
        Panel("message to one user", "us of CPU", told),
        Panel("idle, for each instance", "ms of CPU a second", idle),
    ]
    return Series("instances", [*panels, Panel("heartbeat of one", "us of CPU", [heartbeats()])])


def heartbeats() -> Line:
    """Of one instance, where so many are registered."""
    line = Line("Redis")
    with RedisServer() as server, redis.Redis.from_url(server.url, protocol=2) as client:
        registry = Registry(client)
        entries: list[dict[str, object]] = []
        for size in REGISTERED:
            entries += [_entry(number) for number in range(len(entries), size)]
            for _ in range(ROUNDS):
                for entry in entries:  # so that all are alive
                    registry.heartbeat(entry)
                with spent(server.pid) as cpu:
                    for number in range(BEATS):
                        registry.heartbeat(entries[number % size])
                line.add(size, cpu[0] * 1e6 / BEATS)
    return line


def _entry(number: int) -> dict[str, object]:
    keys = {"encryption": ["a" * 16], "signing": ["b" * 16]}
    return {
        "instance_id": f"instance-{number}",
        "nonce": secrets.token_hex(16),
        "hostname": "bench",
        "pid": number,
        "status": "ready",
        "is_stopping": False,
        "pool": 5,
        "keys": keys,
        "writes_with": {ring: ids[0] for ring, ids in keys.items()},
    }


@dataclass(frozen=True)
class Many:
    """A fleet of so many instances, and a user of the first one."""

    servers: MeasuredFleet
    instances: list[Instance]
    user: User

    @classmethod
    def started(cls, stack: ExitStack, count: int) -> Self:
        servers = stack.enter_context(fleet())
        instances = [servers.start() for _ in range(count)]
        return cls(servers, instances, User(instances[0]).register())

    def rest(self) -> Cpu:
        """A second."""
        with self._spent() as cpu:
            time.sleep(IDLE_SECONDS)
        return Cpu(*(seconds / IDLE_SECONDS for seconds in _together(cpu)))

    def ask(self, resting: Cpu) -> tuple[Cpu, float]:
        """One of them; what all took beyond resting, and what makes it microseconds of one request."""
        started = time.monotonic()
        with self._spent() as cpu:
            count = load(self.instances[0], "/api/auth/me", f"session={self.user.cookie}", LOAD_SECONDS, CONNECTIONS)
        return _beyond(cpu, resting, time.monotonic() - started), 1e6 / count

    def tell(self, resting: Cpu) -> tuple[Cpu, float]:
        """The user, by a process that is no instance, until all messages are there."""
        with WebSocket(self.instances[0], self.user).join() as websocket:
            started = time.monotonic()
            with self._spent() as cpu:
                flask(self.servers.environment, "notify", self.user.email, TITLE, "--count", str(MESSAGES))
                for _ in range(MESSAGES):
                    websocket.await_text('42["notification"')
        return _beyond(cpu, resting, time.monotonic() - started), 1e6 / MESSAGES

    def _spent(self) -> AbstractContextManager[list[float]]:
        return spent(self.servers.redis.pid, self.servers.postgres.pid, *(one.pid for one in self.instances))


def _together(cpu: list[float]) -> Cpu:
    of_redis, of_postgres, *of_instances = cpu
    return Cpu(sum(of_instances), of_redis, of_postgres)


def _beyond(cpu: list[float], resting: Cpu, seconds: float) -> Cpu:
    return Cpu(*(taken - share * seconds for taken, share in zip(_together(cpu), resting, strict=True)))


def _add(lines: list[Line], size: int, cpu: Cpu, factor: float) -> None:
    for line, seconds in zip(lines, cpu, strict=True):
        line.add(size, seconds * factor)
