"""The health of a Redis Cluster: users of the masters that work are served, so the loss of one is a warning."""

from __future__ import annotations

from collections.abc import Sequence

import gevent
import redis

from app.core.warnings import OperatorWarning
from app.health.redis_durability import RedisDurability
from app.health.redis_writes import READ_ONLY, RedisWrites
from app.redis.cluster import ClusterClient, NodeAddress

_MasterChecks = tuple[RedisWrites, RedisDurability]


class ClusterHealth:
    """Pings all masters at the same time, and looks which of them refuse writes or keep no append-only file."""

    def __init__(self, client: ClusterClient, with_long_timeout: redis.Redis) -> None:
        self._client = client
        self._with_long_timeout = with_long_timeout
        self._masters: list[NodeAddress] = []
        self._lost = 0  # masters that did not answer
        self._checks: dict[NodeAddress, _MasterChecks] = {}

    def check(self) -> None:
        """Count the masters that do not answer in time for users. Raises redis.RedisError if none does."""
        self._masters = self._client.topology.masters()
        pings = [gevent.spawn(self._ping, address) for address in self._masters]
        self._lost = sum(not ping.get() for ping in pings)
        if self._lost == len(self._masters):
            self._with_long_timeout.ping()  # slow is not failed

    def find_warning(self) -> OperatorWarning | None:
        """Return the first problem of: no answer, refused writes, no append-only file; or None. Raises redis.RedisError."""
        if self._lost:
            return OperatorWarning("masters_down", f"{self._lost} of {len(self._masters)} masters do not answer")
        self._checks = {address: self._checks.get(address) or self._create_checks(address) for address in self._masters}
        writes = [writes.find_warning() for writes, _ in self._checks.values()]
        # A former master that is a replica now is no warning: it redirects every command.
        refusals = [None if warning is READ_ONLY else warning for warning in writes]
        return self._summarize(refusals) or self._summarize(
            [durability.find_warning() for _, durability in self._checks.values()]
        )

    def _create_checks(self, address: NodeAddress) -> _MasterChecks:
        node = self._client.node(address)
        return RedisWrites(node), RedisDurability(node)

    def _summarize(self, found: Sequence[OperatorWarning | None]) -> OperatorWarning | None:
        """Return the first of the warnings, with the number of masters that have it."""
        first = next(filter(None, found), None)
        if first is None:
            return None
        name, _, effect = first.partition(": ")
        return OperatorWarning(first.reason, f"{name}: {found.count(first)} of {len(found)} masters: {effect}")

    def _ping(self, address: NodeAddress) -> bool:
        try:
            with self._client.topology.refreshing_after_errors(address):
                self._client.node(address).ping()
        except redis.RedisError:
            return False
        return True
