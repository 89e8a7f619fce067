"""A fleet for measurements, the CPU time of its processes, and the load on it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import machine
from bench.servers import UNLIMITED_SOCKETS
from harness.servers import ROOT, Instance, PostgresServer, RedisServer, fleet_environment

APPLICATION = "bench.growth.signed_in_users:app"
CONNECTIONS = 32


@dataclass(frozen=True)
class MeasuredFleet:
    redis: RedisServer
    postgres: PostgresServer
    environment: dict[str, str]
    stack: ExitStack

    def start(self) -> Instance:
        """Start another instance."""
        instance = self.stack.enter_context(Instance(self.environment, application=APPLICATION))
        machine.pin(instance.pid, machine.SERVER_CORE)
        return instance


@contextmanager
def fleet() -> Iterator[MeasuredFleet]:
    """Start the stores of a fleet without instances. Stores, load generator and this process share one core."""
    os.sched_setaffinity(0, {machine.OTHER_CORE})
    with ExitStack() as stack:
        redis, postgres = stack.enter_context(RedisServer()), stack.enter_context(PostgresServer())
        environment = fleet_environment(redis.url, postgres.create_database(), LOG_LEVEL="WARNING", **UNLIMITED_SOCKETS)
        yield MeasuredFleet(redis, postgres, environment, stack)


@contextmanager
def spent(*pids: int) -> Iterator[list[float]]:
    """Yield a list that holds, after the block, the CPU seconds of each process and its children during the block."""
    before, used = [cpu_seconds(pid) for pid in pids], [0.0] * len(pids)
    yield used
    used[:] = [cpu_seconds(pid) - earlier for pid, earlier in zip(pids, before, strict=True)]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time so far in nanosecond resolution. /proc/PID/stat has only 10 ms, which is too coarse here."""
    process = psutil.Process(pid)
    ended = process.cpu_times()
    living = sum(_nanoseconds(one.pid) for one in (process, *process.children(recursive=True)))
    return living / 1e9 + ended.children_user + ended.children_system


def _nanoseconds(pid: int) -> int:
    total = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has exited
            total += int(thread.read_text().split()[0])
    return total


def load(instance: Instance, path: str, cookie: str, seconds: float, connections: int = CONNECTIONS) -> int:
    """Return the number of answered requests."""
    arguments = [str(instance.port), path, cookie, str(connections), str(seconds)]
    command = [sys.executable, "-m", "bench.load", *arguments]
    answer = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    if answer["failed"]:
        raise RuntimeError(f"{answer['failed']} requests to {path} failed")
    count: int = answer["requests"]
    return count
