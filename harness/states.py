"""The states of docs/degradation.md. Each function creates one with real servers, and ends it at the end of the block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from typing import Any, NamedTuple

import psycopg2

from harness.servers import wait_until
from harness.sites import MAX_CONNECTIONS, Site, SiteOnCluster, SiteOnSmallDisk, SiteWithDistantInstance, SiteWithSentinels
from harness.users import User

QUICK_SECONDS = 2.0  # for the users whom a state does not affect


@contextmanager
def redis_down(site: Site) -> Iterator[None]:
    site.redis.kill()
    try:
        yield
    finally:
        site.redis.start()


@contextmanager
def redis_frozen(site: Site) -> Iterator[None]:
    site.redis.freeze()
    try:
        yield
    finally:
        site.redis.resume()


@contextmanager
def redis_read_only(site: Site) -> Iterator[None]:
    """Make Redis the replica of a primary that is gone: a primary that was demoted."""
    with site.redis.client() as client:
        client.replicaof("127.0.0.1", "1")
        try:
            yield
        finally:
            client.replicaof("NO", "ONE")


@contextmanager
def redis_out_of_memory(site: Site) -> Iterator[None]:
    with site.redis.client() as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


@contextmanager
def postgresql_down(site: Site) -> Iterator[None]:
    site.postgres.kill()
    try:
        yield
    finally:
        site.postgres.start()


@contextmanager
def postgresql_frozen(site: Site) -> Iterator[None]:
    site.postgres.freeze()
    try:
        yield
    finally:
        site.postgres.resume()


@contextmanager
def postgresql_read_only(site: Site) -> Iterator[None]:
    with site.postgres.read_only(site.database_url):
        yield


@contextmanager
def postgresql_locked(site: Site) -> Iterator[None]:
    with site.postgres.locked_table(site.database_url, "users"):
        yield


@contextmanager
def postgresql_out_of_connections(site: Site) -> Iterator[None]:
    """Take all connections, those of the processes included."""
    with ExitStack() as stack:
        administrator = stack.enter_context(closing(psycopg2.connect(site.postgres.url)))
        administrator.autocommit = True
        cursor = stack.enter_context(administrator.cursor())

        def all_are_taken() -> bool:
            with suppress(psycopg2.OperationalError):
                while True:
                    stack.enter_context(closing(psycopg2.connect(site.postgres.url, application_name="taken")))
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name NOT IN ('taken', '')")
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'taken'")
            return cursor.fetchall() == [(MAX_CONNECTIONS - 1,)]  # one is the administrator's

        wait_until(all_are_taken, what="all connections to be taken")
        yield


@contextmanager
def no_worker(site: Site) -> Iterator[None]:
    site.worker.terminate()
    try:
        yield
    finally:
        site.worker.start()


@contextmanager
def redis_disk_full(site: SiteOnSmallDisk) -> Iterator[None]:
    site.redis.fill_disk()
    wait_until(site.redis.refuses_writes, what="Redis to refuse writes")
    try:
        yield
    finally:
        (site.redis.folder / "filler").unlink()


@contextmanager
def instance_unreachable(site: SiteWithDistantInstance) -> Iterator[None]:
    """Set the link of an instance down, and wait until nginx has closed the connections that it had kept open to it."""
    with site.link.down():
        wait_until(lambda: not site.has_connections_to_distant_instance(), what="nginx to close its kept connections")
        yield


@contextmanager
def shard_lost(site: SiteOnCluster) -> Iterator[None]:
    """Kill the server with Ada's sessions. Users on other shards must notice nothing."""
    users = (User(site.entrance, timeout=QUICK_SECONDS).register() for _ in range(100))
    other = next(user for user in users if not site.is_affected(user))
    lost = site.shard_of(site.ada)
    lost.kill()
    try:
        assert [other.get(path).status_code for path in ("/api/auth/me", "/api/repositories", "/")] == [200] * 3
        yield
        assert other.post("/api/notifications/read", up_to=0).status_code == 204
    finally:
        lost.start()
        site.cluster.wait_until_whole()


@contextmanager
def failing_over(site: SiteWithSentinels) -> Iterator[None]:
    """Kill the primary, and two of three sentinels, so that the failover does not end before everything was checked."""
    primary, (_, *others) = site.replicated.primary, site.replicated.sentinels
    for sentinel in others:
        sentinel.kill()
    primary.kill()
    try:
        yield
    finally:
        for sentinel in others:
            sentinel.start()
        site.replicated.wait_for_failover(primary)


class State(NamedTuple):
    create: Callable[[Any], AbstractContextManager[None]]
    site: type[Site] = Site  # that the state needs
    needs_root: bool = False


STATES = {
    "Redis: down": State(redis_down),
    "Redis: frozen": State(redis_frozen),
    "Redis: read-only": State(redis_read_only),
    "Redis: out of memory": State(redis_out_of_memory),
    "Redis: disk full": State(redis_disk_full, SiteOnSmallDisk, needs_root=True),
    "Redis Cluster: one shard lost": State(shard_lost, SiteOnCluster),
    "Redis Sentinel: failing over": State(failing_over, SiteWithSentinels),
    "PostgreSQL: down": State(postgresql_down),
    "PostgreSQL: frozen": State(postgresql_frozen),
    "PostgreSQL: read-only": State(postgresql_read_only),
    "PostgreSQL: locked": State(postgresql_locked),
    "PostgreSQL: out of connections": State(postgresql_out_of_connections),
    "no worker": State(no_worker),
    "one instance unreachable": State(instance_unreachable, SiteWithDistantInstance, needs_root=True),
}
