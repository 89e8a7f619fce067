"""The health of a Redis Cluster: users of the masters that work are served, so the loss of one is a warning."""

from __future__ import annotations

import gevent
import redis

from app.core.warnings import OperatorWarning
from app.health.redis_server import BY_URGENCY, READ_ONLY, RedisServerCheck
from app.redis.cluster import ClusterClient, NodeAddress


class ClusterHealth:
    """Pings all masters at the same time, and looks for the most urgent warning about one."""

    def __init__(self, client: ClusterClient, with_long_timeout: redis.Redis) -> None:
        self._client = client
        self._with_long_timeout = with_long_timeout
        self._masters: list[NodeAddress] = []
        self._lost = 0  # masters that did not answer
        self._checks: dict[NodeAddress, RedisServerCheck] = {}

    def check(self) -> None:
        """Count the masters that do not answer in time for users. Raises redis.RedisError if none does."""
        self._masters = self._client.topology.masters()
        pings = [gevent.spawn(self._ping, address) for address in self._masters]
        self._lost = sum(not ping.get() for ping in pings)
        if self._lost == len(self._masters):
            self._with_long_timeout.ping()  # slow is not failed

    def find_warning(self) -> OperatorWarning | None:
        """Return the most urgent warning, with the number of masters that have it, or None. Raises redis.RedisError."""
        if self._lost:
            return OperatorWarning("masters_down", f"{self._lost} of {len(self._masters)} masters do not answer")
        self._checks = {
            address: self._checks.get(address) or RedisServerCheck(self._client.node(address)) for address in self._masters
        }
        found = [check.find_warning() for check in self._checks.values()]
        # A former master that is a replica now is no warning: it redirects every command.
        worst = next((warning for warning in BY_URGENCY if warning in found and warning is not READ_ONLY), None)
        if worst is None:
            return None
        name, _, effect = worst.partition(": ")
        return OperatorWarning(worst.reason, f"{name}: {found.count(worst)} of {len(found)} masters: {effect}")

    def _ping(self, address: NodeAddress) -> bool:
        try:
            with self._client.topology.refreshing_after_errors(address):
                self._client.node(address).ping()
        except redis.RedisError:
            return False
        return True
