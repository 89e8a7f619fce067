"""Whether the instances of a fleet fit together: unique names, the same stores and settings, enough database connections."""

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import gevent
from sqlalchemy.exc import DBAPIError

from app.core.errors import Unavailable
from app.core.instance import Instance
from app.core.tasks import InstanceTask
from app.database.engine import Database, DatabaseReadOnly
from app.fleet import sql_heartbeat
from app.fleet.sql_heartbeat import SqlHeartbeat
from app.fleet.store import FleetTotals, Peer
from app.server.lifecycle import READY, STARTING, STOPPED, Lifecycle

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
ROLLOUT_SECONDS = 120  # after the last start of an instance, different settings are no longer a rolling deployment


@dataclass(frozen=True)
class ConfigMismatch:
    kind: str  # keys, instance_id, redis, database, connections, settings
    instance_ids: list[str]
    message: str

    def describe(self) -> dict[str, Any]:
        return asdict(self)


class ConsistencyCheck:
    """Compares this instance with the others: those in the Redis registry, and those with a heartbeat in SQL.

    Only a starting instance reads their entries and heartbeats. A ready one costs the same, however many others there are.
    """

    def __init__(
        self,
        instance: Instance,
        lifecycle: Lifecycle,
        database: Database,
        pool_size: int,
        list_peers: Callable[[], list[Peer]],
        connection_limit: int | None = None,
    ) -> None:
        """Prepare the check; `compare` does it.

        `list_peers` reads the registry and raises Unavailable. `connection_limit` is that of all processes together; PostgreSQL
        is asked if it is None, unless there is a pooler between.
        """
        self.pool_size = pool_size
        self._list_peers = list_peers
        self._instance = instance
        self._lifecycle = lifecycle
        self._database = database
        self._peers: list[Peer] = []
        self._heartbeats: list[SqlHeartbeat] | None = None  # None: not compared yet
        self._is_read_only = False  # the database: instances that started since then have no heartbeat in it
        self._instances, self._connections = 1, pool_size  # of the fleet
        self._duplicate: dict[str, Any] | None = None
        self._stated_limit = connection_limit
        self._connection_limit = connection_limit or 0
        self._exceeds_limit = False
        self._task = InstanceTask("sql heartbeat", HEARTBEAT_SECONDS)

    def run(self) -> None:
        while self._lifecycle.phase != STOPPED:
            self.compare()
            gevent.sleep(HEARTBEAT_SECONDS)

    def compare(self) -> None:
        """Store the heartbeat in SQL, and compare the stores while starting. If one fails, the last result stays valid."""
        try:
            if not self._connection_limit and self._database.pooler is None:
                self._connection_limit = self._database.run(sql_heartbeat.connection_limit)
            self._store_heartbeat()
            if self._lifecycle.phase == STARTING:
                self._peers = self._list_peers()
                self._heartbeats = self._database.run(sql_heartbeat.read)
        except (Unavailable, DBAPIError) as error:  # DBAPIError: the schema is too old
            self._task.fail(error)
        else:
            self._task.succeed()
            self._check_connections()

    def _store_heartbeat(self) -> None:
        own = SqlHeartbeat(self._instance.nonce, self._instance.instance_id, self._lifecycle.phase == READY)
        try:
            self._database.run(sql_heartbeat.record, own)
            if self._lifecycle.phase == STARTING:
                self._database.run(sql_heartbeat.delete_old)
        except DatabaseReadOnly:
            self._is_read_only = True
        else:
            self._is_read_only = False

    def on_heartbeat(self, totals: FleetTotals, duplicate: dict[str, Any] | None) -> None:
        """Take over what the registry answered to a heartbeat."""
        self._instances, self._connections, self._duplicate = totals.instances, totals.connections, duplicate
        self._check_connections()

    def sign_off(self) -> None:
        """Delete the heartbeat in SQL. One that can't be deleted is stale within seconds."""
        with suppress(Unavailable, DBAPIError):
            self._database.run(sql_heartbeat.delete_own, self._instance.nonce)

    def not_ready_reason(self) -> str | None:
        if self._heartbeats is None:
            return (
                "this instance has not yet compared its database with that of the others:"
                " check that the database answers and has the table heartbeats"
            )
        blocking = [*self._duplicate_id(), *self._other_database(), *self._other_redis()]
        return blocking[0].message if blocking else None

    def mismatches(self) -> list[ConfigMismatch]:
        """Return what this instance reports about itself."""
        found = [*self._duplicate_id(), *self._other_database(), *self._too_many_connections()]
        return [*found, *self._other_redis()] if self._lifecycle.phase == STARTING else found

    def instances_on_other_redis(self, registered: Collection[str]) -> list[ConfigMismatch]:
        """Return a mismatch for each instance that uses this database but whose nonce is not registered.

        If the database does not answer or has an older schema, this is not known, and others report that.
        """
        try:
            heartbeats = self._database.run(sql_heartbeat.read)
        except (Unavailable, DBAPIError):
            return []
        return [
            ConfigMismatch(
                "redis",
                [heartbeat.instance_id],
                f"{heartbeat.instance_id} uses the same database but is not registered in this Redis: compare REDIS_URL",
            )
            for heartbeat in _missing(heartbeats, registered)
        ]

    def _duplicate_id(self) -> list[ConfigMismatch]:
        if self._duplicate is None:
            return []
        name = self._instance.instance_id
        where = f"process {self._duplicate['pid']} on {self._duplicate['hostname']}"
        return [ConfigMismatch("instance_id", [name], f"INSTANCE_ID {name} is in use by {where}: give each instance its own")]

    def _other_database(self) -> list[ConfigMismatch]:
        # A stale heartbeat counts too: a slow database is not another database.
        nonces = {heartbeat.nonce for heartbeat in self._heartbeats or []}
        others = [peer.instance_id for peer in self._peers if peer.status == READY and peer.nonce not in nonces]
        is_comparable = self._heartbeats is not None and not self._is_read_only and self._lifecycle.phase == STARTING
        return self._other_store("database", "database", others) if is_comparable else []

    def _other_redis(self) -> list[ConfigMismatch]:
        registered = {peer.nonce for peer in self._peers} | {self._instance.nonce}
        others = [heartbeat.instance_id for heartbeat in _missing(self._heartbeats or [], registered) if heartbeat.is_ready]
        return self._other_store("redis", "Redis", others)

    def _other_store(self, kind: str, name: str, others: list[str]) -> list[ConfigMismatch]:
        if not others:
            return []
        message = f"this instance uses another {name} than {', '.join(sorted(others))}: compare {kind.upper()}_URL"
        return [ConfigMismatch(kind, [self._instance.instance_id], message)]

    def _check_connections(self) -> None:
        """Only the instance that exceeds the limit by starting reports it, not those that were running before."""
        if not self._connection_limit:
            return
        exceeds = self._connections > self._connection_limit
        if exceeds and not self._exceeds_limit and self._lifecycle.phase == STARTING:
            self._exceeds_limit = True
            log.warning("%s", self._too_many_connections()[0].message)
        self._exceeds_limit = self._exceeds_limit and exceeds

    def _too_many_connections(self) -> list[ConfigMismatch]:
        if not self._exceeds_limit:
            return []
        source, limit = ("DATABASE_CONNECTION_LIMIT", "this limit") if self._stated_limit else ("PostgreSQL", "max_connections")
        message = (
            f"{self._instances} instances may open {self._connections} database connections,"
            f" but {source} allows {self._connection_limit}: lower DATABASE_POOL_SIZE or raise {limit}"
        )
        return [ConfigMismatch("connections", [self._instance.instance_id], message)]


def _missing(heartbeats: list[SqlHeartbeat], registered: Collection[str]) -> list[SqlHeartbeat]:
    """Return the heartbeats in SQL of instances that are alive but not registered."""
    return [heartbeat for heartbeat in heartbeats if heartbeat.is_fresh and heartbeat.nonce not in registered]


def settings_mismatches(instances: list[dict[str, Any]]) -> list[ConfigMismatch]:
    """Return the smallest group of instances with its own settings, unless a rolling deployment explains the difference."""
    by_settings: dict[str, list[str]] = {}
    for about in instances:
        by_settings.setdefault(about["config_fingerprint"], []).append(about["instance_id"])
    if len(by_settings) < 2 or is_rolling_out(instances):
        return []
    fewest = min(by_settings.values(), key=len)
    message = f"the settings of {', '.join(fewest)} differ from those of the other instances: compare their environments"
    return [ConfigMismatch("settings", fewest, message)]


def is_rolling_out(instances: list[dict[str, Any]]) -> bool:
    return bool(min(about["uptime"] for about in instances) < ROLLOUT_SECONDS)
