"""The CPU time of one HGETALL that reads a session, in one greenlet and in many at once.

python -m bench.redis_commands
"""

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

CONCURRENCY = (1, 32)
COMMANDS, ROUNDS = 6_400, 7
KEY = "session:" + "0" * 64
RECORD: dict[Any, Any] = {
    name: secrets.token_bytes(60) for name in (".created", ".seen", ".client", ".signed", "user", "csrf_token")
}

COMMAND: Any = ("HGETALL", KEY)

Read = Callable[[], Any]


def measure(url: str) -> dict[str, list[float]]:
    """Return microseconds for each of CONCURRENCY. Runs in a process that is patched by gevent."""
    client = connect(config.load(fleet_environment(url, "postgresql://nobody@127.0.0.1/unused")), "bench")
    client.hset(KEY, mapping=RECORD)
    multiplexed = MultiplexedRedis(client)
    methods: dict[str, Callable[[int], None]] = {
        "redis-py": lambda count: _run_concurrently(count, lambda: client.hgetall(KEY)),
        "app/redis/multiplexed.py": lambda count: _run_concurrently(count, lambda: multiplexed.execute(*COMMAND)),
        "without greenlets: packed, sent, received, parsed": lambda count: _pipeline(client, count),
        "only switching greenlets": lambda count: _run_concurrently(count, lambda: gevent.sleep(0)),
    }
    found: dict[str, list[list[float]]] = {name: [[] for _ in CONCURRENCY] for name in methods}
    for _ in range(1 + ROUNDS):
        for name, method in methods.items():
            for count, into in zip(CONCURRENCY, found[name], strict=True):
                into.append(_cpu_us(method, count))
    return {name: [statistics.median(times[1:]) for times in columns] for name, columns in found.items()}


def table(results: dict[str, list[float]]) -> str:
    heads = [f"{count} at once, us of CPU | to redis-py" for count in CONCURRENCY]
    first = results["redis-py"]
    rows = [
        f"| {name} | {' | '.join(f'{us:.1f} | {us / of_first:.2f}' for us, of_first in zip(columns, first, strict=True))} |"
        for name, columns in results.items()
    ]
    return "\n".join(
        [f"| one HGETALL of {len(RECORD)} fields | {' | '.join(heads)} |", "|---|" + "---:|" * 2 * len(CONCURRENCY), *rows]
    )


def _run_concurrently(count: int, read: Read) -> None:
    def work() -> None:
        for _ in range(COMMANDS // count):
            read()

    gevent.joinall([gevent.spawn(work) for _ in range(count)], raise_error=True)


def _pipeline(client: redis.Redis, count: int) -> None:
    """Send `count` commands with one system call and read their replies."""
    connection: Any = client.connection_pool.get_connection()
    reader, fd = hiredis.Reader(notEnoughData=hiredis), connection._get_socket().fileno()
    os.set_blocking(fd, True)
    for _ in range(COMMANDS // count):
        os.write(fd, b"".join(hiredis.pack_command(COMMAND) for _ in range(count)))
        missing = count
        while missing:
            reader.feed(os.read(fd, 65_536))
            while reader.gets() is not hiredis:
                missing -= 1
    os.set_blocking(fd, False)
    client.connection_pool.release(connection)


def _cpu_us(method: Callable[[int], None], count: int) -> float:
    started = time.process_time()
    method(count)
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
