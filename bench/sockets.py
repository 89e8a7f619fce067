"""Memory of an idle WebSocket, and the CPU time to open and to close it, for RepoRadar and its peers."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench import machine
from bench.servers import BenchServer, all_servers
from harness.processes import wait_until
from harness.servers import ROOT

COUNTS = (500, 4000)
WARM_UP = 20  # sockets, for one-time initialisation
SETTLE_SECONDS = 3.0  # until memory no longer changes
SAMPLE_SECONDS, QUIET_SHARE = 0.5, 0.2  # a server is quiet when it uses less than this share of its core
TIMEOUT_SECONDS = 120.0  # for a server to become quiet


@dataclass(frozen=True)
class Measured:
    connect_ms: float  # CPU
    memory_kb: float  # of one socket
    disconnect_ms: float  # CPU


Results = dict[int, dict[str, Measured]]  # sockets -> server -> what was measured


def measure() -> Results:
    return {count: _measure_all(count) for count in COUNTS}


def table(results: Results) -> str:
    lines = [
        "| idle WebSockets | | memory of one, kB | CPU to connect, ms | CPU to disconnect, ms |",
        "|---:|---|---:|---:|---:|",
    ]
    for count, by_server in results.items():
        for name, found in by_server.items():
            lines.append(f"| {count:,} | {name} | {found.memory_kb:.1f} | {found.connect_ms:.2f} | {found.disconnect_ms:.2f} |")
    return "\n".join(lines)


def _measure_all(count: int) -> dict[str, Measured]:
    """Start new servers for each measurement, because a server reuses the memory of earlier sockets."""
    with all_servers() as (servers, _):
        for server in servers:
            _measure(server, WARM_UP)
        return {server.name: _measure(server, count) for server in servers}


def _measure(server: BenchServer, count: int) -> Measured:
    _wait_until_quiet(server)
    memory, cpu = machine.memory_bytes(server.pid), machine.cpu_seconds(server.pid)
    with idle_sockets(server, count):
        _wait_until_quiet(server)
        connected = machine.cpu_seconds(server.pid)
        time.sleep(SETTLE_SECONDS)
        taken = machine.memory_bytes(server.pid) - memory
        open_until = machine.cpu_seconds(server.pid)
    _wait_until_quiet(server)
    closed = machine.cpu_seconds(server.pid)
    return Measured((connected - cpu) * 1000 / count, taken / count / 1000, (closed - open_until) * 1000 / count)


def _wait_until_quiet(server: BenchServer) -> None:
    """Wait until the server has finished its work."""

    def is_quiet() -> bool:
        before = machine.cpu_seconds(server.pid)
        time.sleep(SAMPLE_SECONDS)
        return machine.cpu_seconds(server.pid) - before < SAMPLE_SECONDS * QUIET_SHARE

    wait_until(is_quiet, TIMEOUT_SECONDS, f"{server.name} to become quiet")


@contextmanager
def idle_sockets(server: BenchServer, count: int) -> Iterator[Callable[[], int]]:
    """Yield a function that closes the sockets and returns how many the server had closed itself."""
    command = ["taskset", "--cpu-list", str(machine.OTHER_CORE), sys.executable, "-m", "bench.idle"]
    arguments = [str(server.port), server.cookie, str(count)]
    with subprocess.Popen([*command, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        if process.stdout.readline() != "open\n":
            raise RuntimeError(f"{server.name} did not accept {count} sockets")
        yield lambda: int(process.communicate()[0].removeprefix("closed "))
        process.stdin.close()
        process.wait()
