"""What an idle WebSocket takes of memory, and its end of CPU; beside the same in the tutorials' stack and in Node."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench import machine
from bench.rivals import Rival, rivals
from tests.servers import ROOT

COUNT = 500
SETTLE_SECONDS = 3.0  # after which memory and work are what they stay


@dataclass(frozen=True)
class Measured:
    memory_kb: float  # of one socket
    disconnect_ms: float  # CPU


def measure() -> dict[str, Measured]:
    with rivals() as (all_of_them, _):
        return {rival.name: _measure(rival) for rival in all_of_them}


def table(results: dict[str, Measured]) -> str:
    lines = [f"| {COUNT} idle WebSockets | memory of one, kB | CPU of a disconnect, ms |", "|---|---:|---:|"]
    lines += [f"| {name} | {found.memory_kb:.1f} | {found.disconnect_ms:.2f} |" for name, found in results.items()]
    return "\n".join(lines)


def _measure(rival: Rival) -> Measured:
    with _sockets(rival, COUNT // 10):  # what the first ones make once for all
        time.sleep(SETTLE_SECONDS)
    time.sleep(SETTLE_SECONDS)
    before = machine.memory_bytes(rival.pid)
    with _sockets(rival, COUNT):
        time.sleep(SETTLE_SECONDS)
        memory = machine.memory_bytes(rival.pid) - before
        cpu = machine.cpu_seconds(rival.pid)
    time.sleep(SETTLE_SECONDS)
    return Measured(memory / COUNT / 1000, (machine.cpu_seconds(rival.pid) - cpu) * 1000 / COUNT)


@contextmanager
def _sockets(rival: Rival, count: int) -> Iterator[None]:
    command = ["taskset", "--cpu-list", str(machine.OTHER_CORE), sys.executable, "-m", "bench.idle"]
    arguments = [str(rival.port), rival.cookie, str(count)]
    with subprocess.Popen([*command, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        if process.stdout.readline() != "open\n":
            raise RuntimeError(f"{rival.name} did not take {count} sockets")
        yield
        process.stdin.close()
        process.wait()
