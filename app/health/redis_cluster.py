"""The health of a Redis Cluster: users of the masters that work are served, so the loss of one is a warning."""

from __future__ import annotations

import gevent
import redis

from app.core.warnings import OperatorWarning
from app.health.redis_writes import READ_ONLY, RedisWrites
from app.redis.cluster import ClusterClient, NodeAddress


class ClusterHealth:
    """Pings all masters at the same time, and looks which of them refuse writes."""

    def __init__(self, client: ClusterClient, with_long_timeout: redis.Redis) -> None:
        self._client = client
        self._with_long_timeout = with_long_timeout
        self._masters: list[NodeAddress] = []
        self._lost = 0  # masters that did not answer
        self._writes: dict[NodeAddress, RedisWrites] = {}

    def check(self) -> None:
        """Count the masters that do not answer in time for users. Raises redis.RedisError if none does."""
        self._masters = self._client.topology.masters()
        pings = [gevent.spawn(self._ping, address) for address in self._masters]
        self._lost = sum(not ping.get() for ping in pings)
        if self._lost == len(self._masters):
            self._with_long_timeout.ping()  # slow is not failed

    def find_warning(self) -> OperatorWarning | None:
        """Return that masters do not answer, or else that some refuse writes, or None. Raises redis.RedisError."""
        if self._lost:
            return OperatorWarning("masters_down", f"{self._lost} of {len(self._masters)} masters do not answer")
        self._writes = {
            address: self._writes.get(address) or RedisWrites(self._client.node(address)) for address in self._masters
        }
        found = [writes.find_warning() for writes in self._writes.values()]
        # A former master that is a replica now is no warning: it redirects every command.
        refusals = [warning for warning in found if warning and warning is not READ_ONLY]
        if not refusals:
            return None
        name, _, effect = refusals[0].partition(": ")
        return OperatorWarning(refusals[0].reason, f"{name}: {len(refusals)} of {len(self._masters)} masters: {effect}")

    def _ping(self, address: NodeAddress) -> bool:
        try:
            with self._client.topology.refreshing_after_errors(address):
                self._client.node(address).ping()
        except redis.RedisError:
            return False
        return True
