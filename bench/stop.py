"""A stop with open sockets and a request in progress, for RepoRadar and its peers.

.venv/bin/python -m bench.stop
"""

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

import click
import httpx
import psutil

from bench import machine
from bench.servers import BenchServer, all_servers
from bench.sockets import idle_sockets
from harness.processes import wait_until

SOCKETS = 200
SIGNAL_AFTER_SECONDS = 0.5  # after the request was sent
TIMEOUT_SECONDS = 60.0


@dataclass
class SlowRequest:
    status: int = 0  # 0: no response
    ended_at: float = 0.0


@dataclass(frozen=True)
class Measured:
    seconds: float  # from the signal to the exit
    after_request: float  # from the end of the request to the exit
    status: int
    closed: int  # sockets that received a close frame


def measure() -> dict[str, Measured]:
    with all_servers() as (servers, _):
        return {server.name: _measure(server) for server in servers}


def table(results: dict[str, Measured]) -> str:
    lines = ["| SIGTERM | exit after, s | after the request, s | request | sockets closed cleanly |", "|---|---:|---:|---|---:|"]
    for name, found in results.items():
        answered = "answered" if found.status == httpx.codes.OK else "cut off"
        cells = [name, f"{found.seconds:.2f}", f"{found.after_request:.2f}", answered, f"{found.closed} of {SOCKETS}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _measure(server: BenchServer) -> Measured:
    with idle_sockets(server, SOCKETS) as close:
        request = SlowRequest()
        thread = threading.Thread(target=_send_slow_request, args=(server, request))
        thread.start()
        time.sleep(SIGNAL_AFTER_SECONDS)
        started = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: psutil.Process(server.pid).status() == psutil.STATUS_ZOMBIE, TIMEOUT_SECONDS, f"{server.name} to exit")
        ended = time.monotonic()
        thread.join()
        return Measured(ended - started, ended - request.ended_at, request.status, close())


def _send_slow_request(server: BenchServer, request: SlowRequest) -> None:
    with suppress(httpx.TransportError):
        request.status = httpx.get(f"http://127.0.0.1:{server.port}/bench/slow", trust_env=False, timeout=60).status_code
    request.ended_at = time.monotonic()


if __name__ == "__main__":
    click.echo(f"{machine.describe()}, {SOCKETS} sockets\n\n{table(measure())}")
