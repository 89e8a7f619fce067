"""A fleet as an orchestrator runs it: what ends is started again, and pid files say what runs."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from harness.processes import POLL_SECONDS
from harness.servers import Instance, PostgresServer, RedisServer, Server, Worker, fleet_environment
from harness.sockets import Balancer


class Fleet:
    def __init__(
        self,
        folder: Path,
        postgres: PostgresServer,
        *,
        size: int,
        application: str,
        worker: str = "app.worker",
        **settings: str,
    ) -> None:
        """Its Redis is its own; the pid files are `folder`/NAME.pid. What ends stays away while there is `folder`/NAME.away."""
        self.folder = folder
        self._postgres = postgres
        self._size = size
        self._application = application
        self._worker = worker
        self._settings = settings
        self._stack = ExitStack()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        with self._stack:
            self.redis = self._stack.enter_context(RedisServer())
            self.environment = fleet_environment(self.redis.url, self._postgres.create_database(), **self._settings)
            self.instances = {f"instance-{number}": self._instance(f"instance-{number}") for number in range(1, self._size + 1)}
            self._stack.enter_context(Worker(self.environment, module=self._worker))
            self.balancer = self._stack.enter_context(Balancer(list(self.instances.values())))
            self.pid_files = {name: self.folder / f"{name}.pid" for name in [*self.instances, "redis"]}
            self._watch()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return self.balancer.url

    def _instance(self, name: str) -> Instance:
        instance = Instance({**self.environment, "INSTANCE_ID": name}, application=self._application)
        return self._stack.enter_context(instance)

    def _watch(self) -> None:
        for name, server in {**self.instances, "redis": self.redis}.items():
            self.pid_files[name].write_text(str(server.pid))
        watcher = threading.Thread(target=self._keep_running, args=({**self.instances, "redis": self.redis},))
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
