"""A process with one idle socket per user. It reads a line of JSON, [PORT, COOKIES], prints `open` when all sockets are open, and
closes them when its standard input ends."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.idle import CONCURRENCY, IdleClient
from harness.servers import ROOT

ATTEMPTS, PAUSE_SECONDS = 5, 1.0


@contextmanager
def idle_users(port: int, cookies: Sequence[str]) -> Iterator[None]:
    """Open a socket for each cookie."""
    command = [sys.executable, "-m", "bench.growth.idle_users"]
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
    semaphore = asyncio.Semaphore(CONCURRENCY)

    staying = []  # sockets must answer pings while others are still being opened

    async def open_one(cookie: str) -> IdleClient:
        async with semaphore:
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
    """Retry as clients do while the instance is too busy for another handshake."""
    for _ in range(ATTEMPTS - 1):
        try:
            return await IdleClient.open(port, cookie)
        except ConnectionError:
            await asyncio.sleep(PAUSE_SECONDS)
    return await IdleClient.open(port, cookie)


if __name__ == "__main__":
    asyncio.run(run(*json.loads(sys.stdin.readline())))
