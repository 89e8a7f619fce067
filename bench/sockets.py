"""What a WebSocket takes: CPU to open, memory to keep, CPU to close; beside the same in the tutorials' stack and in Node."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench import machine
from bench.rivals import Rival, rivals
from harness.processes import wait_until
from harness.servers import ROOT

COUNTS = (500, 4000)
WARM_UP = 20  # sockets, for what the first ones make once for all
SETTLE_SECONDS = 3.0  # after which memory is what it stays
LOOK_SECONDS, QUIET_SHARE = 0.5, 0.2  # a server has finished when it takes less of its core than this
LONGEST_SECONDS = 120.0  # for one to finish


@dataclass(frozen=True)
class Measured:
    connect_ms: float  # CPU
    memory_kb: float  # of one socket
    disconnect_ms: float  # CPU


Results = dict[int, dict[str, Measured]]  # sockets -> rival -> what was measured


def measure() -> Results:
    return {count: _measure_all(count) for count in COUNTS}


def table(results: Results) -> str:
    lines = [
        "| idle WebSockets | | memory of one, kB | CPU to connect, ms | CPU to disconnect, ms |",
        "|---:|---|---:|---:|---:|",
    ]
    for count, by_rival in results.items():
        for name, found in by_rival.items():
            lines.append(f"| {count:,} | {name} | {found.memory_kb:.1f} | {found.connect_ms:.2f} | {found.disconnect_ms:.2f} |")
    return "\n".join(lines)


def _measure_all(count: int) -> dict[str, Measured]:
    """Of servers that have just been started: those that have had sockets before would use their memory again."""
    with rivals() as (all_of_them, _):
        for rival in all_of_them:
            _measure(rival, WARM_UP)
        return {rival.name: _measure(rival, count) for rival in all_of_them}


def _measure(rival: Rival, count: int) -> Measured:
    _settle(rival)
    memory, cpu = machine.memory_bytes(rival.pid), machine.cpu_seconds(rival.pid)
    with idle_sockets(rival, count):
        _settle(rival)
        connected = machine.cpu_seconds(rival.pid)
        time.sleep(SETTLE_SECONDS)
        taken = machine.memory_bytes(rival.pid) - memory
        open_until = machine.cpu_seconds(rival.pid)
    _settle(rival)
    closed = machine.cpu_seconds(rival.pid)
    return Measured((connected - cpu) * 1000 / count, taken / count / 1000, (closed - open_until) * 1000 / count)


def _settle(rival: Rival) -> None:
    """Waits until it has done what it has to do."""

    def is_quiet() -> bool:
        before = machine.cpu_seconds(rival.pid)
        time.sleep(LOOK_SECONDS)
        return machine.cpu_seconds(rival.pid) - before < LOOK_SECONDS * QUIET_SHARE

    wait_until(is_quiet, LONGEST_SECONDS, f"{rival.name} to finish")


@contextmanager
def idle_sockets(rival: Rival, count: int) -> Iterator[Callable[[], int]]:
    """What comes can be called once, to close them: it returns how many the server had closed itself."""
    command = ["taskset", "--cpu-list", str(machine.OTHER_CORE), sys.executable, "-m", "bench.idle"]
    arguments = [str(rival.port), rival.cookie, str(count)]
    with subprocess.Popen([*command, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        if process.stdout.readline() != "open\n":
            raise RuntimeError(f"{rival.name} did not take {count} sockets")
        yield lambda: int(process.communicate()[0].removeprefix("closed "))
        process.stdin.close()
        process.wait()
