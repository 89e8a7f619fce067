"""The CPU time between a request's arrival and the application, for gunicorn's workers and RepoRadar's worker.

.venv/bin/python -m bench.serving
"""

import os
import statistics
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from bench import machine
from bench.requests import load
from bench.servers import GUNICORN, started

BIND = ["--bind", "127.0.0.1:{port}"]
STOCK = [GUNICORN, "--config", os.devnull, *BIND]
WORKERS = {
    "gunicorn’s gevent worker": [*STOCK, "--worker-class", "gevent"],
    "gunicorn’s gevent_pywsgi worker": [*STOCK, "--worker-class", "gevent_pywsgi"],
    "RepoRadar’s worker": [GUNICORN, "--config", "bench/peers/gunicorn_conf.py", *BIND],
}
APPLICATIONS = {"WSGI": "bench.peers.baselines:wsgi", "Flask": "bench.peers.baselines:flask"}
ROUNDS = 5
WARM_UP_SECONDS, SECONDS = 0.5, 1.5

Results = dict[str, dict[str, float]]  # worker -> application -> us of CPU per request


def measure() -> Results:
    return {worker: dict(zip(APPLICATIONS, costs, strict=True)) for worker, costs in _costs().items()}


def _costs() -> dict[str, list[float]]:
    names = [(worker, application) for worker in WORKERS for application in APPLICATIONS]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        servers = [
            stack.enter_context(started(f"{worker} {what}", [*WORKERS[worker], APPLICATIONS[what]], {}, folder))
            for worker, what in names
        ]
        rounds = [[_cost(port, pid) for port, pid in servers] for _ in range(ROUNDS)]
    medians = map(statistics.median, zip(*rounds, strict=True))
    found: dict[str, list[float]] = {worker: [] for worker in WORKERS}
    for (worker, _), median in zip(names, medians, strict=True):
        found[worker].append(median)
    return found


def _cost(port: int, pid: int) -> float:
    load(port, "/bench/bare", "name=value", WARM_UP_SECONDS)
    before = machine.cpu_seconds(pid)
    requests = load(port, "/bench/bare", "name=value", SECONDS)["requests"]
    return (machine.cpu_seconds(pid) - before) * 1e6 / float(requests)


def table(results: Results) -> str:
    first = next(iter(results.values()))
    heads = [f"bare {what}, us | to the first" for what in APPLICATIONS]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * 2 * len(APPLICATIONS)]
    for worker, costs in results.items():
        cells = [f"{cost:.0f} | {cost / first[what]:.2f}" for what, cost in costs.items()]
        lines.append(f"| {worker} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    click.echo(table(measure()))
