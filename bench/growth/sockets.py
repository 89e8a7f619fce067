"""Many sockets on one instance: what each takes of memory, its beginning, its end, and its doing nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import httpx

from bench import machine
from bench.growth.crowd import crowd
from bench.growth.fleet import cpu_seconds, fleet, spent
from bench.growth.series import Line, Panel, Series
from tests.processes import wait_until
from tests.servers import Instance

SIZES = (100, 1_000, 2_500, 5_000)
SETTLE_SECONDS = 2.0
IDLE_SECONDS = 25.0  # in which each is pinged once
QUIET_SHARE = 0.1  # of the processor, above what the sockets take that stay
SIGNED_IN_AT_ONCE = 500


class Costs(NamedTuple):
    """Of one socket."""

    connect_ms: float
    memory_kb: float
    idle_us: float  # a second
    disconnect_ms: float


def measure() -> Series:
    lines = Line("connect"), Line("memory"), Line("idle"), Line("disconnect")
    with fleet() as servers:
        instance = servers.start()
        cookies = people(instance, SIZES[-1])
        with crowd(instance.port, cookies[: SIZES[0] // 2]):  # what the first ones make once for all
            time.sleep(SETTLE_SECONDS)
        _wait_until_quiet(instance)
        empty = machine.memory_bytes(instance.pid)
        with spent(instance.pid) as alone:
            time.sleep(SETTLE_SECONDS)
        for size in SIZES:
            for line, cost in zip(lines, _costs(instance, cookies[:size], empty, alone[0] / SETTLE_SECONDS), strict=True):
                line.add(size, cost)
    connect, memory, idle, disconnect = lines
    return Series(
        "sockets of an instance",
        [
            Panel("CPU of one", "ms", [connect, disconnect]),
            Panel("memory of one", "kB", [memory]),
            Panel("CPU of one that is idle", "us a second", [idle]),
        ],
    )


def people(instance: Instance, count: int) -> list[str]:
    """Cookies, of a user each."""
    with httpx.Client(trust_env=False, timeout=60) as client:
        url = f"{instance.url}/bench/people/{SIGNED_IN_AT_ONCE}"
        return [cookie for _ in range(0, count, SIGNED_IN_AT_ONCE) for cookie in client.post(url).raise_for_status().json()]


def _costs(instance: Instance, cookies: Sequence[str], empty: int, alone: float) -> Costs:
    """`empty`: bytes without them; `alone`: the share of a processor that the instance takes without them."""
    count, before = len(cookies), cpu_seconds(instance.pid)
    with crowd(instance.port, cookies):
        connecting = cpu_seconds(instance.pid) - before
        time.sleep(SETTLE_SECONDS)
        memory = machine.memory_bytes(instance.pid) - empty
        with spent(instance.pid) as idling:
            time.sleep(IDLE_SECONDS)
        before = cpu_seconds(instance.pid)
    _wait_until_quiet(instance)
    disconnecting = cpu_seconds(instance.pid) - before
    idle = idling[0] / IDLE_SECONDS - alone
    return Costs(connecting * 1e3 / count, memory / 1e3 / count, idle * 1e6 / count, disconnecting * 1e3 / count)


def _wait_until_quiet(instance: Instance) -> None:
    def is_quiet() -> bool:
        with spent(instance.pid) as cpu:
            time.sleep(SETTLE_SECONDS / 4)
        return cpu[0] < QUIET_SHARE * SETTLE_SECONDS / 4

    wait_until(is_quiet, 120, "the instance to have nothing to do")
