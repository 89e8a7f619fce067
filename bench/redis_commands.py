"""What it costs to read a session from Redis: CPU of one HGETALL, alone and with many greenlets at once.

python -m bench.redis_commands
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import gevent
import hiredis
import redis

from app.core import config
from app.redis.client import connect
from app.redis.multiplexed import MultiplexedRedis
from bench import machine
from harness.servers import ROOT, RedisServer, fleet_environment

AT_ONCE = (1, 32)
COMMANDS, ROUNDS = 6_400, 7
KEY = "session:" + "0" * 64
RECORD: dict[Any, Any] = {
    name: secrets.token_bytes(60) for name in (".created", ".seen", ".client", ".signed", "user", "csrf_token")
}

COMMAND: Any = ("HGETALL", KEY)

Read = Callable[[], Any]


def measure(url: str) -> dict[str, list[float]]:
    """In a process whose sockets are gevent's: microseconds, one for each of AT_ONCE."""
    client = connect(config.load(fleet_environment(url, "postgresql://nobody@127.0.0.1/unused")), "bench")
    client.hset(KEY, mapping=RECORD)
    multiplexed = MultiplexedRedis(client)
    ways: dict[str, Callable[[int], None]] = {
        "redis-py": lambda count: _at_once(count, lambda: client.hgetall(KEY)),
        "app/redis/multiplexed.py": lambda count: _at_once(count, lambda: multiplexed.execute(*COMMAND)),
        "without greenlets: packed, sent, received, parsed": lambda count: _plainly(client, count),
        "only switching greenlets": lambda count: _at_once(count, lambda: gevent.sleep(0)),
    }
    found: dict[str, list[list[float]]] = {name: [[] for _ in AT_ONCE] for name in ways}
    for _ in range(1 + ROUNDS):
        for name, way in ways.items():
            for count, into in zip(AT_ONCE, found[name], strict=True):
                into.append(_cpu_us(way, count))
    return {name: [statistics.median(times[1:]) for times in columns] for name, columns in found.items()}


def table(results: dict[str, list[float]]) -> str:
    heads = [f"{count} at once, us of CPU | to redis-py" for count in AT_ONCE]
    first = results["redis-py"]
    rows = [
        f"| {name} | {' | '.join(f'{us:.1f} | {us / of_first:.2f}' for us, of_first in zip(columns, first, strict=True))} |"
        for name, columns in results.items()
    ]
    return "\n".join(
        [f"| one HGETALL of {len(RECORD)} fields | {' | '.join(heads)} |", "|---|" + "---:|" * 2 * len(AT_ONCE), *rows]
    )


def _at_once(count: int, read: Read) -> None:
    def work() -> None:
        for _ in range(COMMANDS // count):
            read()

    gevent.joinall([gevent.spawn(work) for _ in range(count)], raise_error=True)


def _plainly(client: redis.Redis, count: int) -> None:
    """So many commands by one call, and their answers."""
    connection: Any = client.connection_pool.get_connection()
    reader, fd = hiredis.Reader(notEnoughData=hiredis), connection._get_socket().fileno()
    os.set_blocking(fd, True)
    for _ in range(COMMANDS // count):
        os.write(fd, b"".join(hiredis.pack_command(COMMAND) for _ in range(count)))
        left = count
        while left:
            reader.feed(os.read(fd, 65_536))
            while reader.gets() is not hiredis:
                left -= 1
    os.set_blocking(fd, False)
    client.connection_pool.release(connection)


def _cpu_us(way: Callable[[int], None], count: int) -> float:
    started = time.process_time()
    way(count)
    return (time.process_time() - started) * 1e6 / COMMANDS


def main() -> None:
    if len(sys.argv) > 1:
        click.echo(json.dumps(measure(sys.argv[1])))
        return
    with RedisServer() as server:
        machine.pin(server.pid, machine.OTHER_CORE)
        patched = [sys.executable, "-m", "gevent.monkey", "--module", "bench.redis_commands", server.url]
        command = ["taskset", "--cpu-list", str(machine.SERVER_CORE), *patched]
        found = subprocess.run(command, cwd=ROOT, env=os.environ, check=True, capture_output=True).stdout
    click.echo(f"{machine.describe()}. Medians of {ROUNDS} rounds.\n\n{table(json.loads(found))}")


if __name__ == "__main__":
    main()
