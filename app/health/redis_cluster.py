"""The health of a Redis Cluster: users of the masters that answer are served, so the loss of one is a warning."""

from __future__ import annotations

import gevent
import redis

from app.core.warnings import OperatorWarning
from app.redis.cluster import ClusterClient, NodeAddress


class ClusterHealth:
    """Pings all masters at the same time."""

    def __init__(self, client: ClusterClient, with_long_timeout: redis.Redis) -> None:
        self.warning: OperatorWarning | None = None
        self._client = client
        self._with_long_timeout = with_long_timeout

    def check(self) -> None:
        """Set `warning` to the number of masters that do not answer in time for users. Raises redis.RedisError if none does."""
        masters = self._client.topology.masters()
        pings = [gevent.spawn(self._ping, address) for address in masters]
        errors = [error for error in (ping.get() for ping in pings) if error]
        text = f"{len(errors)} of {len(masters)} masters do not answer"
        self.warning = OperatorWarning("masters_down", text) if errors else None
        if len(errors) == len(masters):
            self._with_long_timeout.ping()  # slow is not failed

    def _ping(self, address: NodeAddress) -> redis.RedisError | None:
        try:
            with self._client.topology.refreshing_after_errors(address):
                self._client.node(address).ping()
        except redis.RedisError as error:
            return error
        return None
