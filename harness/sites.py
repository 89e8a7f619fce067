"""Whole sites for tests of degraded states: instances and a worker on their stores, with a user who has a report."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg2
import redis

from app.core import config
from app.core.keyring import Keyring
from app.database import cooperative
from app.database.engine import Database
from app.notifications.service import Notifications
from app.realtime.publisher import RedisPublisher
from app.redis.client import connect
from harness.fleet import NO_RATE_LIMITS, start_together
from harness.redis_cluster import ClusterNode, RedisCluster
from harness.repositories import Commit, build
from harness.sentinels import ReplicatedRedis
from harness.servers import Instance, PostgresServer, RedisServer, Worker, fleet_environment, wait_until
from harness.sockets import Balancer
from harness.users import Reachable, User

SQL_SECONDS = 0.5  # for a query of a test
MAX_CONNECTIONS = 40  # of PostgreSQL
SESSION_TTL_SECONDS = 120
MAX_WRONG_PASSWORDS = 5  # of an account in a minute


class Site:
    """Instances and a worker on their stores, and users who are prepared while everything works."""

    def __init__(self, folder: Path, application: str = "wsgi:app") -> None:
        """`folder`: for the repository that is analysed. `application`: the entry point of the instances."""
        self.folder = folder
        self._application = application
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self._start()
            self.ada = User(self.entrance).register()
            build(self.folder / "small", [Commit(1_700_000_000, files={b"README.md": b"# Small\n"})])
            added = self.ada.post("/api/repositories", url=str(self.folder / "small")).json()
            self.repository_id = added["repository"]["id"]
            wait_until(lambda: self.analysis_has_succeeded(added["analysis"]["id"]), what="the first analysis")
            self.ada_id = self.ada.get("/api/auth/me").json()["user"]["id"]
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        self._start_stores()
        self._start_processes()
        self.notifications = self._stack.enter_context(notifications_of_a_command(self.environment))

    def _start_stores(self) -> None:
        redis_url = self._start_redis()
        self.postgres = self._stack.enter_context(self._create_postgres())
        limits = NO_RATE_LIMITS | {"SESSION_TTL": str(SESSION_TTL_SECONDS), "RATE_LIMIT_LOGIN": f"{MAX_WRONG_PASSWORDS}/min"}
        settings = limits | {"REPOSITORY_ROOTS": str(self.folder)}
        self.environment = fleet_environment(redis_url, self.postgres.create_database(), **settings)

    def _start_redis(self) -> str:
        """Start Redis and return its URL."""
        self.redis = self._stack.enter_context(RedisServer())
        return self.redis.url

    def is_affected(self, user: User) -> bool:
        """Return whether the state affects this user. The row shows the users whom it affects."""
        return True

    def _create_postgres(self) -> PostgresServer:
        return PostgresServer(max_connections=MAX_CONNECTIONS)

    def _start_processes(self) -> None:
        instance = Instance(self.environment | {"INSTANCE_ID": "instance-1"}, application=self._application)
        self.worker = Worker(self.environment)
        start_together(self._stack, [instance, self.worker])
        self.entrance: Instance | Balancer = instance
        self.pages_entrance: Reachable = instance  # of the pages that are open before the state begins

    @property
    def database_url(self) -> str:
        return self.environment["DATABASE_URL"]

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Execute a statement; return no rows if the database does not answer."""
        with suppress(psycopg2.OperationalError), cooperative.deadline(SQL_SECONDS), ExitStack() as stack:
            connection = stack.enter_context(closing(psycopg2.connect(self.database_url)))
            cursor = stack.enter_context(connection.cursor())
            cursor.execute(f"SET statement_timeout = {SQL_SECONDS * 1000:.0f}; {statement}", parameters)
            return cursor.fetchall()
        return []

    def analysis_has_succeeded(self, analysis_id: int) -> bool:
        return bool(self.rows("SELECT 1 FROM analyses WHERE id = %s AND status = 'succeeded'", analysis_id))

    def events_of(self, email: str) -> int:
        return len(
            self.rows(
                "SELECT 1 FROM analytics_events WHERE person IN (SELECT pseudonym FROM analytics_people WHERE user_id ="
                " (SELECT id FROM users WHERE email = %s)) AND name = 'clicked'",
                email,
            )
        )


@contextmanager
def notifications_of_a_command(environment: dict[str, str]) -> Iterator[Notifications]:
    """Provide what `flask notify` sends notifications with."""
    settings = config.load(environment)
    signing = Keyring("signing", tuple(secret.encode() for secret in settings.session_secret))
    client = connect(settings, "command")
    with closing(Database(settings.database_url, 1, "command")) as database, closing(client):
        yield Notifications(database, RedisPublisher(client, signing).publish)


class SmallDisk(RedisServer):
    """A Redis server whose folder is a small file system of its own."""

    def _create_folder(self) -> Path:
        folder = super()._create_folder()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
        return folder

    def close(self) -> None:
        if self.status() is None:
            self.kill()
        subprocess.run(["umount", self.folder], check=True)
        super().close()

    def fill_disk(self) -> None:
        with suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    def refuses_writes(self) -> bool:
        with self.client() as client, suppress(redis.ResponseError):
            client.set("filler", bytes(1000))
            return False
        return True


class SiteOnSmallDisk(Site):
    redis: SmallDisk

    def _start_redis(self) -> str:
        self.redis = self._stack.enter_context(SmallDisk())
        return self.redis.url


class Link:
    """A pair of network interfaces, one of them in a namespace. While it is down, packets are lost without an error."""

    def __init__(self) -> None:
        number = secrets.randbelow(1 << 14)
        self.name = f"radar{number}"
        self.here, self.there = (f"10.213.{number >> 6}.{(number & 63) * 4 + end}" for end in (1, 2))

    def __enter__(self) -> Self:
        self._ip("netns", "add", self.name)
        self._ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        self._ip("address", "add", f"{self.here}/30", "dev", self.name)
        self._ip("link", "set", self.name, "up")
        self._ip("-netns", self.name, "address", "add", f"{self.there}/30", "dev", "eth0")
        for interface in ("lo", "eth0"):
            self._ip("-netns", self.name, "link", "set", interface, "up")
        return self

    def __exit__(self, *_: object) -> None:
        self._ip("link", "delete", self.name)
        self._ip("netns", "delete", self.name)

    @contextmanager
    def down(self) -> Iterator[None]:
        self._ip("-netns", self.name, "link", "set", "eth0", "down")
        try:
            yield
        finally:
            self._ip("-netns", self.name, "link", "set", "eth0", "up")

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)


class DistantInstance(Instance):
    """An instance on a machine of its own: in a network namespace, which one link connects with this one."""

    def __init__(self, environment: dict[str, str], link: Link) -> None:
        super().__init__(environment | {"HOST": link.there, "TRUSTED_HOSTS": f"127.0.0.1,{link.there}"})
        self._link = link
        self.address = link.there

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    def _command(self) -> list[str]:
        return ["ip", "netns", "exec", self._link.name, *super()._command()]


class SiteWithDistantInstance(Site):
    """Two instances behind nginx, one of them on a machine of its own."""

    def _start_stores(self) -> None:
        self.link = self._stack.enter_context(Link())
        super()._start_stores()
        with self.redis.client() as client:
            client.config_set("protected-mode", "no")
            client.config_set("bind", f"127.0.0.1 {self.link.here}")

    def _create_postgres(self) -> PostgresServer:
        return PostgresServer(max_connections=MAX_CONNECTIONS, address=self.link.here)

    def _start_processes(self) -> None:
        distant = {name: self.environment[name].replace("127.0.0.1", self.link.here) for name in ("REDIS_URL", "DATABASE_URL")}
        near = Instance(self.environment | {"INSTANCE_ID": "instance-1", "TRUSTED_PROXIES": "1"})
        self.distant = DistantInstance(
            self.environment | distant | {"INSTANCE_ID": "instance-2", "TRUSTED_PROXIES": "1"}, self.link
        )
        self.worker = Worker(self.environment)
        start_together(self._stack, [near, self.distant, self.worker])
        self.entrance = self.balancer = self._stack.enter_context(Balancer([near, self.distant]))
        self.pages_entrance = self.distant

    def has_connections_to_distant_instance(self) -> bool:
        """Return whether nginx has an open connection to the distant instance."""
        workers = psutil.Process(self.balancer.pid).children()
        connections = [connection for worker in workers for connection in worker.net_connections("tcp")]
        address = (self.distant.address, self.distant.port)
        return any(one.raddr == address and one.status == psutil.CONN_ESTABLISHED for one in connections)


class SiteOnCluster(Site):
    """A Redis Cluster without replicas, so that no other server takes over a shard."""

    def _start_redis(self) -> str:
        self.cluster = self._stack.enter_context(RedisCluster(masters=3, replicas=0))
        return self.cluster.url

    def shard_of(self, user: User) -> ClusterNode:
        """Return the server that has the sessions of a user."""
        return self.cluster.master_of(f"{{user:{user.get('/api/auth/me').json()['user']['id']}}}")

    def is_affected(self, user: User) -> bool:
        return self.shard_of(user) is self.shard_of(self.ada)


class SiteWithSentinels(Site):
    def _start_redis(self) -> str:
        self.replicated = self._stack.enter_context(ReplicatedRedis())
        return self.replicated.url
