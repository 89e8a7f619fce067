"""The servers that are compared, started side by side: RepoRadar, the tutorials' stack (T), and the same in Node (N)."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from bench import machine
from harness.processes import Process, free_port, wait_until
from harness.servers import ROOT, PostgresServer, RedisServer, base_environment, fleet_environment

OURS, TUTORIAL, NODE = "RepoRadar", "T", "N"
SHARDED = "N, sharded"  # its other adapter, of which only messages are a matter

NODE_FOLDER = ROOT / "bench" / "peers" / "node"
PASSWORD = "correct horse battery"  # noqa: S105 - of accounts that are gone after a minute
MOST = "10000"  # sockets
MANY = {"MAX_SOCKETS": MOST, "MAX_SOCKETS_PER_USER": MOST}
GUNICORN = str(Path(sys.prefix, "bin", "gunicorn"))


class Rival(NamedTuple):
    name: str
    port: int
    pid: int
    cookie: str  # of a session that has signed in
    user_id: int


Launch = Callable[[], AbstractContextManager[Rival]]  # of one more instance


@contextmanager
def rivals() -> Iterator[tuple[list[Rival], RedisServer]]:
    """One instance of each of the three."""
    with launchers() as (launch, redis), ExitStack() as stack:
        yield [stack.enter_context(one()) for name, one in launch.items() if name != SHARDED], redis


@contextmanager
def launchers() -> Iterator[tuple[dict[str, Launch], RedisServer]]:
    """Of those that this machine can run; Node is left out where it is missing."""
    with ExitStack() as stack:
        redis, postgres = stack.enter_context(RedisServer()), stack.enter_context(PostgresServer())
        for store in (redis, postgres):
            machine.pin(store.pid, machine.OTHER_CORE)
        environment = fleet_environment(redis.url, postgres.create_database(), LOG_LEVEL="WARNING", **MANY)
        tutorial = [
            "--config",
            os.devnull,
            "--worker-class",
            "gevent",
            f"--worker-connections={MOST}",
            "--bind",
            "127.0.0.1:{port}",
        ]
        commands = {
            OURS: [GUNICORN, "--config", "gunicorn.conf.py", "bench.peers.ours:app"],
            TUTORIAL: [GUNICORN, *tutorial, "bench.peers.tutorial:app"],
        }
        if install_node_peer():
            commands[NODE] = ["node", str(NODE_FOLDER / "server.js")]
            commands[SHARDED] = [*commands[NODE], "sharded"]
        folder = redis.folder  # which is removed with it
        launch = functools.partial(_rival, environment=environment, folder=folder, numbers=itertools.count(1))
        yield {name: functools.partial(launch, name, command) for name, command in commands.items()}, redis


def install_node_peer() -> bool:
    if not shutil.which("npm"):
        return False
    if not (NODE_FOLDER / "node_modules").exists():
        quietly = ["--no-package-lock", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(["npm", "install", "--prefix", str(NODE_FOLDER), *quietly], check=True)
    return True


@contextmanager
def started(name: str, command: list[str], environment: Mapping[str, str], folder: Path) -> Iterator[tuple[int, int]]:
    """Port and process id of a server that has the first core for itself. `{port}` in its command stands for the port."""
    port = free_port()
    logs = folder / name
    logs.mkdir()
    process = Process(
        ["taskset", "--cpu-list", str(machine.SERVER_CORE), *(word.format(port=port) for word in command)],
        environment={**base_environment(), **environment, "PORT": str(port)},
        directory=ROOT,
        folder=logs,
    )
    try:
        wait_until(lambda: _answers(port), 30, f"{name} to answer")
        yield port, process.pid
    finally:
        process.kill()


@contextmanager
def _rival(
    name: str, command: list[str], environment: Mapping[str, str], folder: Path, numbers: Iterator[int]
) -> Iterator[Rival]:
    instance_id = f"bench-{next(numbers)}"
    with started(instance_id, command, {**environment, "INSTANCE_ID": instance_id}, folder) as (port, pid):
        yield Rival(name, port, pid, *_sign_in(name, port, instance_id))


def _sign_in(name: str, port: int, account: str) -> tuple[str, int]:
    """The cookie, and whose it is."""
    user_id = 1
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        if name == OURS:  # whose sockets belong to a user who exists
            user = client.post("/api/auth/register", json={"email": f"{account}@example.org", "password": PASSWORD})
            user_id = user.raise_for_status().json()["user"]["id"]
        client.post("/bench/login").raise_for_status()
        return "; ".join(f"{key}={value}" for key, value in client.cookies.items()), user_id


def _answers(port: int) -> bool:
    try:
        ready = httpx.get(f"http://127.0.0.1:{port}/bench/bare", trust_env=False)
    except httpx.TransportError:
        return False
    return ready.status_code == 200
