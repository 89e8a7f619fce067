"""The cost of opening, keeping and closing a socket on an instance with many sockets."""

import time
from collections.abc import Sequence
from contextlib import ExitStack

import httpx

from bench import machine
from bench.growth.fleet import MeasuredFleet, fleet, spent
from bench.growth.idle_users import idle_users
from bench.growth.series import Line, Panel, Series
from harness.processes import wait_until
from harness.servers import Instance

SIZES = (100, 1_000, 2_500, 5_000)
SETTLE_SECONDS, SAMPLE_SECONDS = 2.0, 0.5
IDLE_SECONDS = 25.0  # one ping interval
QUIET_SHARE = 0.1  # CPU share
WARM_UP = USERS_PER_REQUEST = 100


def measure() -> Series:
    connect, memory, disconnect = Line("connect"), Line("memory"), Line("disconnect")
    idle = Line("instance"), Line("Redis"), Line("PostgreSQL")
    with ExitStack() as stack:
        empty, *measured = [InstanceWithSockets(stack.enter_context(fleet()), size) for size in (0, *SIZES)]
        for one in measured:
            connect.add(one.size, one.open() * 1e3)
            memory.add(one.size, one.memory() / 1e3)
        without_sockets, *with_sockets = _measure_idle([empty, *measured])  # at the same time, so that periodic work is the same
        for one, shares in zip(measured, with_sockets, strict=True):
            for line, share, without in zip(idle, shares, without_sockets, strict=True):
                line.add(one.size, (share - without) * 1e6 / one.size)
        for one in measured:
            disconnect.add(one.size, one.close() * 1e3)
    return Series(
        "sockets of an instance",
        [
            Panel("CPU of one", "ms", [connect, disconnect]),
            Panel("memory of one", "kB", [memory]),
            Panel("CPU of one that is idle", "us a second", [*idle]),
        ],
    )


class InstanceWithSockets:
    """An instance with `size` sockets, each of another user. Costs are per socket."""

    def __init__(self, servers: MeasuredFleet, size: int) -> None:
        self.size = size
        self._instance = servers.start()
        self.pids = self._instance.pid, servers.redis.pid, servers.postgres.pid
        first, self._cookies = create_users(self._instance, WARM_UP), create_users(self._instance, size)
        with idle_users(self._instance.port, first):  # one-time initialisation
            time.sleep(SETTLE_SECONDS)
        self._wait_until_quiet()
        self._empty = machine.memory_bytes(self._instance.pid)
        self._sockets = ExitStack()

    def open(self) -> float:
        """Return CPU seconds."""
        with spent(self._instance.pid) as cpu:
            self._sockets.enter_context(idle_users(self._instance.port, self._cookies))
        return cpu[0] / self.size

    def memory(self) -> float:
        """Return bytes."""
        time.sleep(SETTLE_SECONDS)
        return (machine.memory_bytes(self._instance.pid) - self._empty) / self.size

    def close(self) -> float:
        """Return CPU seconds."""
        with spent(self._instance.pid) as cpu:
            self._sockets.close()
            self._wait_until_quiet()
        return cpu[0] / self.size

    def _wait_until_quiet(self) -> None:
        wait_until(self._is_quiet, 600, "the instance to become quiet")

    def _is_quiet(self) -> bool:
        with spent(self._instance.pid) as cpu:
            time.sleep(SAMPLE_SECONDS)
        return cpu[0] < QUIET_SHARE * SAMPLE_SECONDS


def _measure_idle(measured: Sequence[InstanceWithSockets]) -> list[list[float]]:
    """Return the CPU shares of the instance, Redis and PostgreSQL of each fleet."""
    with spent(*(pid for one in measured for pid in one.pids)) as cpu:
        time.sleep(IDLE_SECONDS)
    shares = iter(seconds / IDLE_SECONDS for seconds in cpu)
    return [[next(shares) for _ in one.pids] for one in measured]


def create_users(instance: Instance, count: int) -> list[str]:
    """Return the session cookies of new users."""
    with httpx.Client(trust_env=False, timeout=60) as client:
        url = f"{instance.url}/bench/people/{USERS_PER_REQUEST}"
        return [cookie for _ in range(0, count, USERS_PER_REQUEST) for cookie in client.post(url).raise_for_status().json()]
