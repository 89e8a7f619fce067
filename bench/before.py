"""`python -m bench.before COMMIT`: what a request costs now, compared with an earlier commit of this repository.

Both versions run at the same time and take turns in each round, so a machine whose speed varies does no harm. Both use the
packages of this virtualenv.
"""

import math
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from bench import machine
from bench.requests import CONNECTIONS, WARM_UP_SECONDS, WORK, load
from bench.servers import BenchServer, launch_version
from harness.servers import ROOT, PostgresServer, RedisServer

ROUNDS, SECONDS = 12, 3.0
T_95 = 2.201  # Student's t for a two-sided interval of 95 % and 11 degrees of freedom
BEFORE, NOW = "before", "now"


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="reporadar-bench-") as folder:
        path = Path(folder, "checkout")
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(path), commit], cwd=ROOT, check=True)
        try:
            yield path
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(path)], cwd=ROOT, check=True)


def measure(commit: str, rounds: int = ROUNDS, seconds: float = SECONDS) -> dict[str, list[tuple[float, float]]]:
    """Return pairs of CPU time per request before and now, in microseconds: one for each round of each kind of work."""
    with ExitStack() as stack:
        folders = {BEFORE: stack.enter_context(checked_out(commit)), NOW: ROOT}
        postgres = stack.enter_context(PostgresServer())
        servers = []
        for name, folder in folders.items():
            redis = stack.enter_context(RedisServer())  # of its own: the versions may store different things
            servers.append(stack.enter_context(launch_version(name, folder, redis, postgres)))
        return {what: _measure_work(servers, path, rounds, seconds) for what, path in WORK.items()}


def _measure_work(servers: list[BenchServer], path: str, rounds: int, seconds: float) -> list[tuple[float, float]]:
    for server in servers:
        load(server.port, path, server.cookie, WARM_UP_SECONDS)
    return [(_cpu_us(servers[0], path, seconds), _cpu_us(servers[1], path, seconds)) for _ in range(rounds)]


def _cpu_us(server: BenchServer, path: str, seconds: float) -> float:
    before = machine.busy_seconds(server.pid)
    found = load(server.port, path, server.cookie, seconds)
    return (machine.busy_seconds(server.pid) - before) * 1e6 / int(found["requests"])


def table(results: dict[str, list[tuple[float, float]]]) -> str:
    lines = ["| work | before, us | now, us | difference, us | 95 % interval |", "|---|---:|---:|---:|---:|"]
    for what, pairs in results.items():
        differences = [now - before for before, now in pairs]
        difference, low, high = interval(differences)
        before, now = (statistics.median(values) for values in zip(*pairs, strict=True))
        lines.append(f"| {what} | {before:.0f} | {now:.0f} | {difference:+.1f} | {low:+.1f} to {high:+.1f} |")
    return "\n".join(lines)


def interval(differences: list[float]) -> tuple[float, float, float]:
    """Return the mean of the differences and the ends of its 95 % interval, for ROUNDS differences."""
    mean = statistics.mean(differences)
    margin = T_95 * statistics.stdev(differences) / math.sqrt(len(differences))
    return mean, mean - margin, mean + margin


@click.command()
@click.argument("commit")
def main(commit: str) -> None:
    click.echo(f"{machine.describe()}. {ROUNDS} rounds, {CONNECTIONS} connections.\n")
    click.echo(table(measure(commit)))


if __name__ == "__main__":
    main()
