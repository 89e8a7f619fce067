"""Starts the servers that are compared: RepoRadar, the stack of Flask tutorials (T), and an equivalent Node application (N)."""

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
SHARDED = "N, sharded"  # socket.io's sharded Redis adapter; only for messages

NODE_FOLDER = ROOT / "bench" / "peers" / "node"
PASSWORD = "correct horse battery"  # noqa: S105 - of temporary accounts
MAX_SOCKETS = "10000"
# And no instance moves sockets to another one while it is measured.
UNLIMITED_SOCKETS = {"MAX_SOCKETS": MAX_SOCKETS, "MAX_SOCKETS_PER_USER": MAX_SOCKETS, "REBALANCE": "false"}
GUNICORN = str(Path(sys.prefix, "bin", "gunicorn"))
OUR_COMMAND = [GUNICORN, "--config", "gunicorn.conf.py", "bench.peers.reporadar:app"]


class BenchServer(NamedTuple):
    name: str
    port: int
    pid: int
    cookie: str  # of a signed-in session
    user_id: int


Launch = Callable[[], AbstractContextManager[BenchServer]]  # starts one more instance


@contextmanager
def all_servers() -> Iterator[tuple[list[BenchServer], RedisServer]]:
    """Start one instance of RepoRadar, T and N."""
    with launchers() as (launch, redis), ExitStack() as stack:
        yield [stack.enter_context(one()) for name, one in launch.items() if name != SHARDED], redis


@contextmanager
def launchers() -> Iterator[tuple[dict[str, Launch], RedisServer]]:
    """Yield a function per server that starts an instance. Node is left out if npm is missing."""
    with ExitStack() as stack:
        redis, postgres = stack.enter_context(RedisServer()), stack.enter_context(PostgresServer())
        for store in (redis, postgres):
            machine.pin(store.pid, machine.OTHER_CORE)
        environment = _settings(redis, postgres)
        tutorial = [
            "--config",
            os.devnull,
            "--worker-class",
            "gevent",
            f"--worker-connections={MAX_SOCKETS}",
            "--bind",
            "127.0.0.1:{port}",
        ]
        commands = {
            OURS: OUR_COMMAND,
            TUTORIAL: [GUNICORN, *tutorial, "bench.peers.tutorial:app"],
        }
        if install_node_peer():
            commands[NODE] = ["node", str(NODE_FOLDER / "server.js")]
            commands[SHARDED] = [*commands[NODE], "sharded"]
        folder = redis.folder  # removed together with the Redis server
        launch = functools.partial(_start, environment=environment, folder=folder, numbers=itertools.count(1))
        yield {name: functools.partial(launch, name, command) for name, command in commands.items()}, redis


@contextmanager
def launch_version(name: str, directory: Path, redis: RedisServer, postgres: PostgresServer) -> Iterator[BenchServer]:
    """Start an instance of the version of RepoRadar in that folder."""
    for store in (redis, postgres):
        machine.pin(store.pid, machine.OTHER_CORE)
    with started(name, OUR_COMMAND, _settings(redis, postgres), redis.folder, directory) as (port, pid):
        yield BenchServer(name, port, pid, *_sign_in(OURS, port, name))


def _settings(redis: RedisServer, postgres: PostgresServer) -> dict[str, str]:
    return fleet_environment(redis.url, postgres.create_database(), LOG_LEVEL="WARNING", **UNLIMITED_SOCKETS)


def install_node_peer() -> bool:
    if not shutil.which("npm"):
        return False
    if not (NODE_FOLDER / "node_modules").exists():
        options = ["--no-package-lock", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(["npm", "install", "--prefix", str(NODE_FOLDER), *options], check=True)
    return True


@contextmanager
def started(
    name: str, command: list[str], environment: Mapping[str, str], folder: Path, directory: Path = ROOT
) -> Iterator[tuple[int, int]]:
    """Start a server on its own core and yield its port and process ID. `{port}` in the command is replaced."""
    port = free_port()
    logs = folder / name
    logs.mkdir()
    process = Process(
        ["taskset", "--cpu-list", str(machine.SERVER_CORE), *(word.format(port=port) for word in command)],
        environment={**base_environment(), **environment, "PORT": str(port)},
        directory=directory,
        folder=logs,
    )
    try:
        wait_until(lambda: _answers(port), 30, f"{name} to answer")
        yield port, process.pid
    finally:
        process.kill()


@contextmanager
def _start(
    name: str, command: list[str], environment: Mapping[str, str], folder: Path, numbers: Iterator[int]
) -> Iterator[BenchServer]:
    instance_id = f"bench-{next(numbers)}"
    with started(instance_id, command, {**environment, "INSTANCE_ID": instance_id}, folder) as (port, pid):
        yield BenchServer(name, port, pid, *_sign_in(name, port, instance_id))


def _sign_in(name: str, port: int, account: str) -> tuple[str, int]:
    """Return the session cookie and the user ID."""
    user_id = 1
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        if name == OURS:  # RepoRadar's sockets need an existing user
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
