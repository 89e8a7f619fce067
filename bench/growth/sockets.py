"""Many sockets on one instance: what each takes of memory, its beginning, its end, and its doing nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import httpx

from bench import machine
from bench.growth.crowd import crowd
from bench.growth.fleet import Fleet, cpu_seconds, fleet, spent
from bench.growth.series import Line, Panel, Series
from tests.processes import wait_until
from tests.servers import Instance

SIZES = (100, 1_000, 2_500, 5_000)
SETTLE_SECONDS, ALONE_SECONDS = 2.0, 5.0
IDLE_SECONDS = 25.0  # in which each is pinged once
QUIET_SHARE = 0.1  # of the processor, above what the sockets take that stay
SIGNED_IN_AT_ONCE = 500


class Costs(NamedTuple):
    """Of one socket."""

    connect_ms: float
    memory_kb: float
    disconnect_ms: float
    idle_us: list[float]  # a second, of the instance, Redis and PostgreSQL


def measure() -> Series:
    connect, memory, disconnect = Line("connect"), Line("memory"), Line("disconnect")
    idle = Line("instance"), Line("Redis"), Line("PostgreSQL")
    with fleet() as servers:
        instance = servers.start()
        cookies = people(instance, SIZES[-1])
        with crowd(instance.port, cookies[: SIZES[0] // 2]):  # what the first ones make once for all
            time.sleep(SETTLE_SECONDS)
        _wait_until_quiet(instance)
        empty, alone = machine.memory_bytes(instance.pid), _rest(servers, instance, ALONE_SECONDS)
        for size in SIZES:
            costs = _costs(servers, instance, cookies[:size], empty, alone)
            connect.add(size, costs.connect_ms)
            memory.add(size, costs.memory_kb)
            disconnect.add(size, costs.disconnect_ms)
            for line, cost in zip(idle, costs.idle_us, strict=True):
                line.add(size, cost)
    return Series(
        "sockets of an instance",
        [
            Panel("CPU of one", "ms", [connect, disconnect]),
            Panel("memory of one", "kB", [memory]),
            Panel("CPU of one that is idle", "us a second", [*idle]),
        ],
    )


def people(instance: Instance, count: int) -> list[str]:
    """Cookies, of a user each."""
    with httpx.Client(trust_env=False, timeout=60) as client:
        url = f"{instance.url}/bench/people/{SIGNED_IN_AT_ONCE}"
        return [cookie for _ in range(0, count, SIGNED_IN_AT_ONCE) for cookie in client.post(url).raise_for_status().json()]


def _costs(servers: Fleet, instance: Instance, cookies: Sequence[str], empty: int, alone: Sequence[float]) -> Costs:
    """`empty`: bytes without them; `alone`: the shares of a processor without them."""
    count, before = len(cookies), cpu_seconds(instance.pid)
    with crowd(instance.port, cookies):
        connecting = cpu_seconds(instance.pid) - before
        time.sleep(SETTLE_SECONDS)
        memory = machine.memory_bytes(instance.pid) - empty
        idling = _rest(servers, instance, IDLE_SECONDS)
        before = cpu_seconds(instance.pid)
    _wait_until_quiet(instance)
    disconnecting = cpu_seconds(instance.pid) - before
    idle = [(share - without) * 1e6 / count for share, without in zip(idling, alone, strict=True)]
    return Costs(connecting * 1e3 / count, memory / 1e3 / count, disconnecting * 1e3 / count, idle)


def _rest(servers: Fleet, instance: Instance, seconds: float) -> list[float]:
    """What the instance, Redis and PostgreSQL take of a processor."""
    with spent(instance.pid, servers.redis.pid, servers.postgres.pid) as cpu:
        time.sleep(seconds)
    return [taken / seconds for taken in cpu]


def _wait_until_quiet(instance: Instance) -> None:
    def is_quiet() -> bool:
        with spent(instance.pid) as cpu:
            time.sleep(SETTLE_SECONDS / 4)
        return cpu[0] < QUIET_SHARE * SETTLE_SECONDS / 4

    wait_until(is_quiet, 120, "the instance to have nothing to do")
