"""The cost of a message between two instances, one that publishes and one that holds the sockets, for RepoRadar and its peers.

For RepoRadar it is the state of an analysis, from `publish_analysis` to the browser. Notifications take the same way after they
were stored in SQL.
"""

import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench import machine
from bench.servers import BenchServer, Launch, launchers
from harness.servers import ROOT

ROUNDS = 3
THROUGHPUT_SECONDS, LATENCY_SECONDS = 1.0, 2.0
MANY = 10  # sockets in one room
PER_SECOND = 200  # for the latency
FOREIGN_PER_SECOND = 2000  # messages to a room without members on the bystander


@dataclass
class Measured:
    """One value per round."""

    per_second: list[float] = field(default_factory=list)
    per_second_to_many: list[float] = field(default_factory=list)
    publisher_us: list[float] = field(default_factory=list)
    host_us: list[float] = field(default_factory=list)
    bystander_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)


Results = dict[str, Measured]


def measure() -> Results:
    results: Results = defaultdict(Measured)
    with launchers() as (launch, _), ExitStack() as stack:
        pairs = {name: (stack.enter_context(one()), stack.enter_context(one())) for name, one in launch.items()}
        for pair in pairs.values():
            _measure_throughput(*pair, Measured())
        for _ in range(ROUNDS):
            for name, pair in pairs.items():
                _measure_throughput(*pair, results[name])
                _measure_latency(*pair, results[name])
        for name, pair in pairs.items():
            _measure_bystander(*pair, launch[name], results[name])
    return results


def table(results: Results) -> str:
    lines = [
        f"| one room on another instance | messages/s, 1 socket | {MANY} sockets | publisher, us | host, us | bystander, us"
        " | p50 / p99, ms |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in results.items():
        cells = [
            name,
            f"{statistics.median(found.per_second):,.0f}",
            f"{statistics.median(found.per_second_to_many):,.0f}",
            f"{statistics.median(found.publisher_us):.0f}",
            f"{statistics.median(found.host_us):.0f}",
            f"{max(0.0, statistics.median(found.bystander_us)):.1f}",
            f"{statistics.median(found.p50_ms):.2f} / {statistics.median(found.p99_ms):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _measure_throughput(publisher: BenchServer, host: BenchServer, into: Measured) -> None:
    """Send as many messages as possible. Both instances share one core."""
    with _subscribers(host, 1, publisher, "throughput", THROUGHPUT_SECONDS) as start:
        before = machine.busy_seconds(publisher.pid), machine.busy_seconds(host.pid)
        found = start()
        into.publisher_us.append((machine.busy_seconds(publisher.pid) - before[0]) * 1e6 / found["messages"])
        into.host_us.append((machine.busy_seconds(host.pid) - before[1]) * 1e6 / found["messages"])
        into.per_second.append(found["messages"] / found["seconds"])
    with _subscribers(host, MANY, publisher, "throughput", THROUGHPUT_SECONDS) as start:
        found = start()
        into.per_second_to_many.append(found["messages"] / found["seconds"])


def _measure_latency(publisher: BenchServer, host: BenchServer, into: Measured) -> None:
    with _subscribers(host, 1, publisher, f"pace:{PER_SECOND}", LATENCY_SECONDS) as start:
        p50_ms, p99_ms = start()["latencies_ms"]
        into.p50_ms.append(p50_ms)
        into.p99_ms.append(p99_ms)


def _measure_bystander(publisher: BenchServer, host: BenchServer, launch: Launch, into: Measured) -> None:
    """Measure the additional CPU time of a third instance that has a socket, but none in the room of the messages."""
    with launch() as bystander, _subscribers(bystander, 1, publisher, "pace:0", 0, room=0):
        for _ in range(ROUNDS):
            with _subscribers(host, 1, publisher, f"pace:{FOREIGN_PER_SECOND}", THROUGHPUT_SECONDS) as start:
                before = machine.busy_seconds(bystander.pid)
                time.sleep(THROUGHPUT_SECONDS)
                quiet, before = machine.busy_seconds(bystander.pid) - before, machine.busy_seconds(bystander.pid)
                found = start()
                taken = machine.busy_seconds(bystander.pid) - before
                into.bystander_us.append((taken - quiet) * 1e6 / found["messages"])


@contextmanager
def _subscribers(
    host: BenchServer, count: int, publisher: BenchServer, work: str, seconds: float, room: int | None = None
) -> Iterator[Any]:
    """Open sockets at the host, in the room of its user. Yield a function that starts the work and returns its results."""
    user_id = host.user_id if room is None else room
    arguments = [host.port, host.cookie, user_id, count, publisher.port, work, seconds]
    command = ["taskset", "--cpu-list", str(machine.OTHER_CORE), sys.executable, "-m", "bench.subscribers", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        if process.stdout.readline() != "open\n":
            raise RuntimeError(f"{host.name} did not accept {count} sockets")

        def start() -> dict[str, Any]:
            assert process.stdin
            assert process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            found: dict[str, Any] = json.loads(process.stdout.readline())
            if found["lost"]:
                raise RuntimeError(f"{found['lost']} messages of {host.name} were lost")
            return found

        yield start
        process.stdin.close()
        process.wait()


if __name__ == "__main__":
    sys.stdout.write(table(measure()) + "\n")
