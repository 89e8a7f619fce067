"""Fleets for tests: instances and workers on one Redis and one database."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from harness.processes import POLL_SECONDS
from harness.servers import Instance, PostgresServer, RedisServer, Server, ServerGroup, Worker, fleet_environment
from harness.sockets import Balancer

NO_RATE_LIMITS = {"RATE_LIMIT_REGISTER": "1000/h", "RATE_LIMIT_LOGIN": "1000/min"}

S = TypeVar("S", bound=Server)


def start_together(stack: ExitStack, servers: Iterable[S]) -> list[S]:
    """Start servers at the same time; return them when all are ready. The stack closes them."""
    started = list(servers)
    for server in started:
        stack.callback(server.close)
    for server in started:
        server.start(wait_ready=False)
    for server in started:
        server.wait_ready()
    return started


class Fleet(ServerGroup):
    """Instances named instance-1, instance-2, ... and workers, on a Redis of their own and a new database."""

    def __init__(
        self,
        postgres: PostgresServer | None = None,
        *,
        redis_url: str | None = None,
        size: int = 2,
        workers: int = 0,
        balanced: bool = False,
        application: str = "wsgi:app",
        applications: Mapping[str, str] | None = None,
        worker: str = "app.worker",
        settings: Mapping[str, str] | None = None,
        worker_settings: Mapping[str, str] | None = None,
    ) -> None:
        """Describe a fleet that `with` starts.

        `postgres`: a server that the test does not stop; by default the fleet starts one of its own.
        `redis_url`: of empty servers, such as a cluster; by default the fleet starts one server of its own, `redis`.
        `applications`: further instances by name, with another entry point each. `worker`: the module of the workers.
        `balanced`: behind the shipped nginx configuration.
        """
        super().__init__()
        self._shared_postgres = postgres
        self._redis_url = redis_url
        self._applications = {f"instance-{number}": application for number in range(1, size + 1)} | dict(applications or {})
        self._workers = workers
        self._worker = worker
        self._worker_settings = dict(worker_settings or {})
        self._balanced = balanced
        self._settings = NO_RATE_LIMITS | dict(settings or {})

    def _start(self) -> None:
        enter = self._stack.enter_context
        if self._redis_url is None:
            self.redis = enter(RedisServer())
        self.postgres = self._shared_postgres or enter(PostgresServer())
        self.environment = fleet_environment(self._redis_url or self.redis.url, self.postgres.create_database(), **self._settings)
        instances = [
            Instance({**self.environment, "INSTANCE_ID": name}, application=application)
            for name, application in self._applications.items()
        ]
        workers = [Worker(self.environment | self._worker_settings, module=self._worker) for _ in range(self._workers)]
        start_together(self._stack, [*instances, *workers])
        self.instances, self.workers = instances, workers
        if self._balanced:
            self.balancer = enter(Balancer(instances))

    @property
    def database_url(self) -> str:
        return self.environment["DATABASE_URL"]


class SupervisedFleet(Fleet):
    """A balanced fleet with one worker that starts again what ends, as an orchestrator does; pid files tell what runs."""

    def __init__(
        self,
        folder: Path,
        postgres: PostgresServer,
        *,
        size: int,
        settings: Mapping[str, str],
        application: str = "wsgi:app",
        worker: str = "app.worker",
    ) -> None:
        """The pid files are `folder`/NAME.pid. A server that ends stays down while `folder`/NAME.away exists."""
        super().__init__(postgres, size=size, workers=1, balanced=True, application=application, worker=worker, settings=settings)
        self.folder = folder
        self._over = threading.Event()

    @property
    def url(self) -> str:
        return self.balancer.url

    def _start(self) -> None:
        super()._start()
        servers: dict[str, Server] = {instance.environment["INSTANCE_ID"]: instance for instance in self.instances}
        self.names = list(servers)
        servers["redis"] = self.redis
        self.pid_files = {name: self.folder / f"{name}.pid" for name in servers}
        for name, server in servers.items():
            self.pid_files[name].write_text(str(server.pid))
        watcher = threading.Thread(target=self._keep_running, args=(servers,))
        watcher.start()
        self._stack.callback(watcher.join)
        self._stack.callback(self._over.set)

    def _keep_running(self, servers: dict[str, Server]) -> None:
        while not self._over.wait(POLL_SECONDS):
            for name, server in servers.items():
                if server.status() is not None and not (self.folder / f"{name}.away").exists():
                    server.wait()
                    server.start(wait_ready=False)
                    self.pid_files[name].write_text(str(server.pid))
