"""Many sockets on one instance: what each takes of memory, its beginning, its end, and its doing nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

import httpx

from bench import machine
from bench.growth.crowd import crowd
from bench.growth.fleet import MeasuredFleet, fleet, spent
from bench.growth.series import Line, Panel, Series
from harness.processes import wait_until
from harness.servers import Instance

SIZES = (100, 1_000, 2_500, 5_000)
SETTLE_SECONDS, LOOK_SECONDS = 2.0, 0.5
IDLE_SECONDS = 25.0  # in which each is pinged once
QUIET_SHARE = 0.1  # of the processor
FIRST = SIGNED_IN_AT_ONCE = 100


def measure() -> Series:
    connect, memory, disconnect = Line("connect"), Line("memory"), Line("disconnect")
    idle = Line("instance"), Line("Redis"), Line("PostgreSQL")
    with ExitStack() as stack:
        nobody, *held = [Held(stack.enter_context(fleet()), size) for size in (0, *SIZES)]
        for one in held:
            connect.add(one.size, one.open() * 1e3)
            memory.add(one.size, one.memory() / 1e3)
        alone, *taken = _rest([nobody, *held])  # in the same seconds, so that what else there is of work is the same
        for one, shares in zip(held, taken, strict=True):
            for line, share, without in zip(idle, shares, alone, strict=True):
                line.add(one.size, (share - without) * 1e6 / one.size)
        for one in held:
            disconnect.add(one.size, one.close() * 1e3)
    return Series(
        "sockets of an instance",
        [
            Panel("CPU of one", "ms", [connect, disconnect]),
            Panel("memory of one", "kB", [memory]),
            Panel("CPU of one that is idle", "us a second", [*idle]),
        ],
    )


class Held:
    """An instance with so many sockets, each of another user. Costs are of one of them."""

    def __init__(self, servers: MeasuredFleet, size: int) -> None:
        self.size = size
        self._instance = servers.start()
        self.pids = self._instance.pid, servers.redis.pid, servers.postgres.pid
        first, self._cookies = people(self._instance, FIRST), people(self._instance, size)
        with crowd(self._instance.port, first):  # what the first ones make once for all
            time.sleep(SETTLE_SECONDS)
        self._wait_until_quiet()
        self._empty = machine.memory_bytes(self._instance.pid)
        self._sockets = ExitStack()

    def open(self) -> float:
        """Seconds of CPU."""
        with spent(self._instance.pid) as cpu:
            self._sockets.enter_context(crowd(self._instance.port, self._cookies))
        return cpu[0] / self.size

    def memory(self) -> float:
        """Bytes."""
        time.sleep(SETTLE_SECONDS)
        return (machine.memory_bytes(self._instance.pid) - self._empty) / self.size

    def close(self) -> float:
        """Seconds of CPU."""
        with spent(self._instance.pid) as cpu:
            self._sockets.close()
            self._wait_until_quiet()
        return cpu[0] / self.size

    def _wait_until_quiet(self) -> None:
        wait_until(self._is_quiet, 600, "the instance to have nothing to do")

    def _is_quiet(self) -> bool:
        with spent(self._instance.pid) as cpu:
            time.sleep(LOOK_SECONDS)
        return cpu[0] < QUIET_SHARE * LOOK_SECONDS


def _rest(held: Sequence[Held]) -> list[list[float]]:
    """Of a processor, what the instance, Redis and PostgreSQL of each take."""
    with spent(*(pid for one in held for pid in one.pids)) as cpu:
        time.sleep(IDLE_SECONDS)
    shares = iter(taken / IDLE_SECONDS for taken in cpu)
    return [[next(shares) for _ in one.pids] for one in held]


def people(instance: Instance, count: int) -> list[str]:
    """Cookies, of a user each."""
    with httpx.Client(trust_env=False, timeout=60) as client:
        url = f"{instance.url}/bench/people/{SIGNED_IN_AT_ONCE}"
        return [cookie for _ in range(0, count, SIGNED_IN_AT_ONCE) for cookie in client.post(url).raise_for_status().json()]
