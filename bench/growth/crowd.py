"""Idle sockets of very many people, from a process of its own: a line of JSON, [PORT, COOKIES], comes in, `open` goes out when
all are open, and they are closed when the input ends."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.idle import AT_ONCE, IdleClient
from harness.servers import ROOT

ATTEMPTS, PAUSE_SECONDS = 5, 1.0


@contextmanager
def crowd(port: int, cookies: Sequence[str]) -> Iterator[None]:
    """A socket for each of the cookies."""
    command = [sys.executable, "-m", "bench.growth.crowd"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps([port, list(cookies)]) + "\n")
        process.stdin.flush()
        if process.stdout.readline() != "open\n":
            raise RuntimeError(f"{len(cookies)} sockets could not be opened")
        yield
        process.stdin.close()
        process.wait()


async def run(port: int, cookies: Sequence[str]) -> None:
    places = asyncio.Semaphore(AT_ONCE)

    staying = []  # from the moment when they are open: who answers no ping while others open is cut off

    async def open_one(cookie: str) -> IdleClient:
        async with places:
            client = await _open(port, cookie)
        staying.append(asyncio.ensure_future(client.stay()))
        return client

    clients = await asyncio.gather(*map(open_one, cookies))
    if any(task.done() for task in staying):
        raise ConnectionError("a socket did not stay")
    sys.stdout.write("open\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    for client in clients:
        client.close()
    for task in staying:
        task.cancel()


async def _open(port: int, cookie: str) -> IdleClient:
    """Tries again, as clients do, where an instance is too busy for one more at this moment."""
    for _ in range(ATTEMPTS - 1):
        try:
            return await IdleClient.open(port, cookie)
        except ConnectionError:
            await asyncio.sleep(PAUSE_SECONDS)
    return await IdleClient.open(port, cookie)


if __name__ == "__main__":
    asyncio.run(run(*json.loads(sys.stdin.readline())))
