"""The cost of a request, of a message and of idling for one or several instances and their stores."""

import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import NamedTuple, Self

from bench.growth.fleet import MeasuredFleet, fleet, load, spent
from bench.growth.series import Line, Panel, Series
from harness.servers import Instance, flask
from harness.sockets import WebSocket
from harness.users import User

MOST = 4
ROUNDS = 3
LOAD_SECONDS, IDLE_SECONDS = 1.5, 4.0
CONNECTIONS = 8  # more would wait too long for one of the five database connections
MESSAGES, TITLE = 600, "The analysis of example has finished"


class Cpu(NamedTuple):
    """CPU time in seconds, or CPU shares, of all instances together and of their stores."""

    instances: float
    redis: float
    postgres: float


def measure() -> Series:
    requests = [Line("instances"), Line("Redis"), Line("PostgreSQL")]
    messages = [Line("instances"), Line("Redis"), Line("PostgreSQL")]
    idle = [Line("instance"), Line("Redis"), Line("PostgreSQL")]
    with ExitStack() as stack:
        fleets = [MeasuredInstances.started(stack, size) for size in range(1, MOST + 1)]
        for _ in range(ROUNDS):  # all sizes in each round, because the machine's speed varies over time
            for many in fleets:
                size, resting = len(many.instances), many.measure_idle()
                _add(idle, size, resting, 1e3 / size)
                _add(requests, size, *many.measure_requests(resting))
                _add(messages, size, *many.measure_messages(resting))
    panels = [
        Panel("request of a user", "us of CPU", requests),
        Panel("message to one user", "us of CPU", messages),
        Panel("idle, for each instance", "ms of CPU a second", idle),
    ]
    return Series("instances", panels)


@dataclass(frozen=True)
class MeasuredInstances:
    """The instances of a fleet, and a user who is signed in to the first one."""

    servers: MeasuredFleet
    instances: list[Instance]
    user: User

    @classmethod
    def started(cls, stack: ExitStack, count: int) -> Self:
        servers = stack.enter_context(fleet())
        instances = [servers.start() for _ in range(count)]
        return cls(servers, instances, User(instances[0]).register())

    def measure_idle(self) -> Cpu:
        """Return CPU shares."""
        with self._spent() as cpu:
            time.sleep(IDLE_SECONDS)
        return Cpu(*(seconds / IDLE_SECONDS for seconds in _by_role(cpu)))

    def measure_requests(self, resting: Cpu) -> tuple[Cpu, float]:
        """Send requests to one instance. Return the CPU time beyond idling, and the factor to microseconds per request."""
        started = time.monotonic()
        with self._spent() as cpu:
            count = load(self.instances[0], "/api/auth/me", self.user.cookie_header, LOAD_SECONDS, CONNECTIONS)
        return _above_idle(cpu, resting, time.monotonic() - started), 1e6 / count

    def measure_messages(self, resting: Cpu) -> tuple[Cpu, float]:
        """Notify the user from another process. Return the CPU time beyond idling, and the factor to us per message."""
        with WebSocket(self.instances[0], self.user).join() as websocket:
            started = time.monotonic()
            with self._spent() as cpu:
                flask(self.servers.environment, "notify", self.user.email, TITLE, "--count", str(MESSAGES))
                for _ in range(MESSAGES):
                    websocket.await_text('42["notification"')
        return _above_idle(cpu, resting, time.monotonic() - started), 1e6 / MESSAGES

    def _spent(self) -> AbstractContextManager[list[float]]:
        return spent(self.servers.redis.pid, self.servers.postgres.pid, *(one.pid for one in self.instances))


def _by_role(cpu: list[float]) -> Cpu:
    of_redis, of_postgres, *of_instances = cpu
    return Cpu(sum(of_instances), of_redis, of_postgres)


def _above_idle(cpu: list[float], resting: Cpu, seconds: float) -> Cpu:
    return Cpu(*(used - share * seconds for used, share in zip(_by_role(cpu), resting, strict=True)))


def _add(lines: list[Line], size: int, cpu: Cpu, factor: float) -> None:
    for line, seconds in zip(lines, cpu, strict=True):
        line.add(size, seconds * factor)
