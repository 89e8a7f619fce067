"""CPU time, Redis commands and latency of a request, for RepoRadar and its peers."""

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from bench import machine
from bench.servers import BenchServer, all_servers
from harness.servers import ROOT, RedisServer

WORK = {
    "authenticated read": "/bench/read",
    "request that changes the session": "/bench/change",
    "route without a session": "/bench/bare",
}
CONNECTIONS = 32
ROUNDS = 5
WARM_UP_SECONDS, SECONDS = 1.0, 3.0
WIDTH = "|---|---|---:|---:|---:|---:|---:|---:|"


@dataclass
class Measured:
    """One value per round."""

    cpu_us: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    commands: list[float] = field(default_factory=list)


Results = dict[str, dict[str, Measured]]  # work -> server -> what was measured


def measure() -> Results:
    results: Results = {what: defaultdict(Measured) for what in WORK}
    with all_servers() as (servers, redis):
        for what, path in WORK.items():
            for server in servers:
                load(server.port, path, server.cookie, WARM_UP_SECONDS)
            for _ in range(ROUNDS):
                for server in servers:
                    _round(server, path, redis, results[what][server.name])
    return results


def table(results: Results) -> str:
    lines = ["| work | | CPU/request, us | to T | to N | requests/s | p50 / p99, ms | Redis commands |", WIDTH]
    for what, by_server in results.items():
        median = {name: statistics.median(measured.cpu_us) for name, measured in by_server.items()}
        for name, measured in by_server.items():
            cells = [
                what,
                name,
                f"{median[name]:.0f}",
                *(f"{median[name] / median[other]:.2f}" if other in median else "–" for other in ("T", "N")),
                f"{statistics.median(measured.per_second):,.0f}",
                f"{statistics.median(measured.p50_ms):.1f} / {statistics.median(measured.p99_ms):.1f}",
                f"{statistics.median(measured.commands):.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _round(server: BenchServer, path: str, redis: RedisServer, into: Measured) -> None:
    cpu_before, commands_before = machine.cpu_seconds(server.pid), _commands(redis)
    found = load(server.port, path, server.cookie, SECONDS)
    if found["failed"]:
        raise RuntimeError(f"{found['failed']} requests of {server.name} to {path} failed")
    count = found["requests"]
    into.cpu_us.append((machine.cpu_seconds(server.pid) - cpu_before) * 1e6 / count)
    into.per_second.append(count / SECONDS)
    into.p50_ms.append(found["latencies_ms"][0])
    into.p99_ms.append(found["latencies_ms"][1])
    into.commands.append((_commands(redis) - commands_before) / count)


def load(port: int, path: str, cookie: str, seconds: float) -> dict[str, Any]:
    """Return the output of `bench.load`."""
    arguments = [str(port), path, cookie, str(CONNECTIONS), str(seconds)]
    command = ["taskset", "--cpu-list", str(machine.OTHER_CORE), sys.executable, "-m", "bench.load", *arguments]
    found: dict[str, Any] = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    return found


def _commands(redis: RedisServer) -> int:
    """Return the number of commands that Redis has executed so far, including those in scripts."""
    with redis.client() as client:
        statistics_of_commands = client.info("stats")
    return int(statistics_of_commands["total_commands_processed"])
