"""Whether instances fit together: one name each, the same stores, the same settings, enough connections for all."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import gevent
from sqlalchemy.exc import DBAPIError

from app.core.errors import Unavailable, cause_of
from app.core.instance import Instance
from app.database.engine import Database
from app.fleet import sql_heartbeat
from app.fleet.sql_heartbeat import SqlHeartbeat
from app.fleet.store import Peer
from app.server.lifecycle import READY, STARTING, STOPPED, Lifecycle

log = logging.getLogger(__name__)

PULSE_SECONDS = 1.0
SETTLED_SECONDS = 120  # after the last start of an instance; until then it is a rolling change of settings


@dataclass(frozen=True)
class ConfigMismatch:
    kind: str  # keys, instance_id, redis, database, connections, settings
    instance_ids: list[str]
    message: str

    def describe(self) -> dict[str, Any]:
        return asdict(self)


class ConsistencyCheck:
    """Of this instance with the others, as it sees them: in Redis, by the registry, and in SQL, by their sql_heartbeat."""

    def __init__(self, instance: Instance, lifecycle: Lifecycle, database: Database, pool_size: int) -> None:
        self.pool_size = pool_size
        self._instance = instance
        self._lifecycle = lifecycle
        self._database = database
        self._peers: list[Peer] = []
        self._pulses: list[SqlHeartbeat] | None = None  # None: never compared
        self._duplicate: dict[str, Any] | None = None
        self._limit = 0
        self._breaks_limit = False
        self._is_failing = False

    def run(self) -> None:
        """Until the instance has stopped, as a greenlet."""
        while self._lifecycle.phase != STOPPED:
            self.compare()
            gevent.sleep(PULSE_SECONDS)

    def compare(self) -> None:
        """Without an answer nothing changes."""
        own = SqlHeartbeat(self._instance.nonce, self._instance.instance_id, self._lifecycle.phase == READY)
        try:
            if not self._limit:
                self._limit = self._database.run(sql_heartbeat.connection_limit)
            self._pulses = self._database.run(sql_heartbeat.record, own)
        except Unavailable as error:  # which the probe says
            log.debug("could not compare the stores: %s", cause_of(error))
        except DBAPIError as error:  # the schema is too old, or the database can only be read
            if not self._is_failing:
                log.warning("could not compare the stores: %s", str(error.orig).partition("\n")[0])
            self._is_failing = True
        else:
            self._is_failing = False
            self._count_connections()

    def on_heartbeat(self, peers: list[Peer], duplicate: dict[str, Any] | None) -> None:
        """What the registry says of the others."""
        self._peers, self._duplicate = peers, duplicate
        self._count_connections()

    def sign_off(self) -> None:
        """What can't be removed is old in a few seconds anyway."""
        with suppress(Unavailable):
            self._database.run(sql_heartbeat.delete_own, self._instance.nonce)

    def not_ready_reason(self) -> str | None:
        """Why this instance should not become ready."""
        if self._pulses is None:
            return "database: has not been compared with what the others use yet"
        blocking = [*self._double(), *self._other_database(), *self._other_redis()]
        return blocking[0].message if blocking else None

    def disagreements(self) -> list[ConfigMismatch]:
        """By this instance's own account."""
        found = [*self._double(), *self._other_database(), *self._too_many_connections()]
        return [*found, *self._other_redis()] if self._lifecycle.phase == STARTING else found

    def instances_on_other_redis(self) -> list[ConfigMismatch]:
        """Instances that use this database, but can't be in our registry, since they use another Redis."""
        known = {peer.nonce for peer in self._peers} | {self._instance.nonce}
        return [
            ConfigMismatch("redis", [seen.instance_id], f"{seen.instance_id} uses the same database, but another Redis")
            for seen in self._pulses or []
            if seen.is_fresh and seen.nonce not in known
        ]

    def _double(self) -> list[ConfigMismatch]:
        if self._duplicate is None:
            return []
        name = self._instance.instance_id
        where = f"process {self._duplicate['pid']} on {self._duplicate['hostname']}"
        return [ConfigMismatch("instance_id", [name], f"INSTANCE_ID {name} is in use by {where}")]

    def _other_database(self) -> list[ConfigMismatch]:
        pulses = {seen.nonce for seen in self._pulses or []}
        others = [peer.instance_id for peer in self._peers if peer.status == READY and peer.nonce not in pulses]
        return self._differs("database", others) if self._pulses is not None and self._lifecycle.phase == STARTING else []

    def _other_redis(self) -> list[ConfigMismatch]:
        known = {peer.nonce for peer in self._peers} | {self._instance.nonce}
        present = [seen for seen in self._pulses or [] if seen.is_fresh and seen.is_ready]
        return self._differs("redis", [seen.instance_id for seen in present if seen.nonce not in known])

    def _differs(self, store: str, others: list[str]) -> list[ConfigMismatch]:
        if not others:
            return []
        what = f"uses another {store} than {', '.join(sorted(others))}"
        return [ConfigMismatch(store, [self._instance.instance_id], what)]

    def _count_connections(self) -> None:
        """Whoever comes last and breaks the limit says so, not those who were there before."""
        if not self._limit:
            return
        breaks = self.pool_size + sum(peer.connections for peer in self._peers) > self._limit
        if breaks and not self._breaks_limit and self._lifecycle.phase == STARTING:
            self._breaks_limit = True
            log.warning("%s", self._too_many_connections()[0].message)
        self._breaks_limit = self._breaks_limit and breaks

    def _too_many_connections(self) -> list[ConfigMismatch]:
        if not self._breaks_limit:
            return []
        needed = self.pool_size + sum(peer.connections for peer in self._peers)
        message = (
            f"the {len(self._peers) + 1} instances may open {needed} database connections, and PostgreSQL allows {self._limit}:"
            " lower DATABASE_POOL_SIZE or raise max_connections"
        )
        return [ConfigMismatch("connections", [self._instance.instance_id], message)]


def lasting_differences(instances: list[dict[str, Any]]) -> list[ConfigMismatch]:
    """Settings that differ although nobody has been started for a while."""
    by_settings: dict[str, list[str]] = {}
    for about in instances:
        by_settings.setdefault(about["config_fingerprint"], []).append(about["instance_id"])
    if len(by_settings) < 2 or min(about["uptime"] for about in instances) < SETTLED_SECONDS:
        return []
    fewest = min(by_settings.values(), key=len)
    return [ConfigMismatch("settings", fewest, f"the settings of {', '.join(fewest)} differ from those of the others")]
