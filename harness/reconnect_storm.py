"""Clients that lose their instance and connect to another one within a second, in a process of their own.

The process reads a line of JSON, [PORT, [[COOKIE, AFTER], ...], LAST], and prints the attributes of each StormClient as JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from harness.raw_websocket import message, upgrade
from harness.servers import ROOT

FIRST_DELAY, MAX_DELAY = 1.0, 5.0  # seconds before an attempt, of which the official clients add or subtract up to half
TIMEOUT_SECONDS = 60.0  # for all clients together


@dataclass
class StormClient:
    refused: int = 0  # handshakes answered otherwise than by 101
    opened: float | None = None  # seconds from the beginning of the last handshake to the Socket.IO CONNECT
    accepted: float | None = None  # seconds from the Engine.IO OPEN to the Socket.IO CONNECT, for which clients wait 1 s or more
    ready: bool = False
    seqs: list[int] = field(default_factory=list)  # the numbers of the received notifications


def reconnect_storm(port: int, clients: Sequence[tuple[str, int]], last: int) -> list[StormClient]:
    """Connect clients, each with a cookie and the number of its last notification, until all have received that number `last`."""
    command = [sys.executable, "-m", "harness.reconnect_storm"]
    request = json.dumps([port, clients, last])
    answer = subprocess.run(command, cwd=ROOT, input=request, capture_output=True, text=True, check=True).stdout
    return [StormClient(**client) for client in json.loads(answer)]


async def _run(port: int, clients: Sequence[tuple[str, int]], last: int) -> None:
    outcomes = [StormClient() for _ in clients]
    tasks = [
        asyncio.ensure_future(_connect(outcome, port, cookie, after))
        for outcome, (cookie, after) in zip(outcomes, clients, strict=True)
    ]
    with suppress(TimeoutError):
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not all(outcome.ready and outcome.seqs[-1:] == [last] for outcome in outcomes):
                await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    sys.stdout.write(json.dumps([asdict(outcome) for outcome in outcomes]))


async def _connect(outcome: StormClient, port: int, cookie: str, after: int) -> None:
    await asyncio.sleep(_delay(0))
    while True:
        began = time.monotonic()
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(upgrade(port, cookie))
            if (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101"):
                await _receive(outcome, reader, writer, after, began)
            writer.close()
        outcome.refused += 1
        await asyncio.sleep(_delay(outcome.refused))


def _delay(refused: int) -> float:
    return min(MAX_DELAY, FIRST_DELAY * 2.0**refused) * random.uniform(0.5, 1.5)  # noqa: S311


async def _receive(
    outcome: StormClient, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, after: int, began: float
) -> None:
    open_at = began
    while True:
        text = await _read_text(reader)
        if text.startswith("0"):
            open_at = time.monotonic()
            writer.write(message(f'40{{"after":{after}}}'.encode()))
        elif text == "2":
            writer.write(message(b"3"))
        elif text.startswith("40"):
            now = time.monotonic()
            outcome.opened, outcome.accepted = now - began, now - open_at
        elif text.startswith("42"):
            event, data = json.loads(text[2:])
            if event == "notification":
                outcome.seqs.append(data["seq"])
            outcome.ready = outcome.ready or event == "ready"


async def _read_text(reader: asyncio.StreamReader) -> str:
    """Read a frame of a server, which is not masked."""
    _, length = await reader.readexactly(2)
    if length == 126:
        length = int.from_bytes(await reader.readexactly(2))
    return (await reader.readexactly(length)).decode(errors="replace")


if __name__ == "__main__":
    asyncio.run(_run(*json.loads(sys.stdin.readline())))
