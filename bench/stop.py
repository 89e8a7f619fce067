"""A stop with sockets open and a request under way; beside the same in the tutorials' stack and in Node.

.venv/bin/python -m bench.stop
"""

from __future__ import annotations

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
from bench.rivals import Rival, rivals
from bench.sockets import idle_sockets
from harness.processes import wait_until

SOCKETS = 200
BEFORE_SECONDS = 0.5  # the request has begun, then comes the signal
LONGEST_SECONDS = 60.0


@dataclass
class Request:
    status: int = 0  # 0: it was cut off
    ended_at: float = 0.0


@dataclass(frozen=True)
class Measured:
    seconds: float  # from the signal to the exit
    after_request: float  # from the end of the request to the exit
    status: int
    closed: int  # sockets that were told by a close frame


def measure() -> dict[str, Measured]:
    with rivals() as (all_of_them, _):
        return {rival.name: _measure(rival) for rival in all_of_them}


def table(results: dict[str, Measured]) -> str:
    lines = ["| SIGTERM | exit after, s | after the request, s | request | sockets closed cleanly |", "|---|---:|---:|---|---:|"]
    for name, found in results.items():
        answered = "answered" if found.status == httpx.codes.OK else "cut off"
        cells = [name, f"{found.seconds:.2f}", f"{found.after_request:.2f}", answered, f"{found.closed} of {SOCKETS}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _measure(rival: Rival) -> Measured:
    with idle_sockets(rival, SOCKETS) as close:
        request = Request()
        asking = threading.Thread(target=_ask, args=(rival, request))
        asking.start()
        time.sleep(BEFORE_SECONDS)
        began = time.monotonic()
        os.kill(rival.pid, signal.SIGTERM)
        wait_until(lambda: psutil.Process(rival.pid).status() == psutil.STATUS_ZOMBIE, LONGEST_SECONDS, f"{rival.name} to exit")
        ended = time.monotonic()
        asking.join()
        return Measured(ended - began, ended - request.ended_at, request.status, close())


def _ask(rival: Rival, request: Request) -> None:
    with suppress(httpx.TransportError):
        request.status = httpx.get(f"http://127.0.0.1:{rival.port}/bench/slow", trust_env=False, timeout=60).status_code
    request.ended_at = time.monotonic()


if __name__ == "__main__":
    click.echo(f"{machine.describe()}, {SOCKETS} sockets\n\n{table(measure())}")
