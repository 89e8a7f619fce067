"""Whether Redis refuses writes or new connections. It still answers then, and users who are signed in are still served."""

import math
import time
from typing import Any

import redis

from app.core.warnings import OperatorWarning

INTERVAL_SECONDS = 5.0  # between two readings
READ_ONLY = OperatorWarning(
    "read_only", "read-only: it is a replica: sign-ins and events are answered with 503 until REDIS_URL leads to a primary"
)
OUT_OF_MEMORY = OperatorWarning(
    "out_of_memory", "out of memory: sign-ins and events are answered with 503 until maxmemory is raised or memory is freed"
)
TOO_FEW_REPLICAS = OperatorWarning(
    "too_few_replicas",
    "too few replicas: sign-ins and events are answered with 503 until as many as min-replicas-to-write are connected",
)
TOO_MANY_CLIENTS = OperatorWarning(
    "too_many_clients",
    "nearly all connections are in use: requests that need a new one are answered with 503 until maxclients is raised",
)
MAX_SHARE_OF_CLIENTS = 0.95  # from here on, a burst of requests may exceed maxclients


class RedisWrites:
    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._read_at = -math.inf
        self._warning: OperatorWarning | None = None

    def find_warning(self) -> OperatorWarning | None:
        """Return why Redis refuses commands, read every INTERVAL_SECONDS, or None. Raises redis.RedisError."""
        if time.monotonic() - self._read_at > INTERVAL_SECONDS:
            self._warning = _refusal(self._client.info())
            self._read_at = time.monotonic()
        return self._warning


def _refusal(facts: dict[str, Any]) -> OperatorWarning | None:
    """Return the reason in the facts of INFO, from which a provider may leave out some."""
    if facts.get("role", "master") != "master":
        return READ_ONLY
    if facts.get("min_slaves_good_slaves") == 0:  # present if min-replicas-to-write is set, whose value INFO does not tell
        return TOO_FEW_REPLICAS
    is_full = 0 < facts.get("maxmemory", 0) <= facts.get("used_memory", 0) and facts.get("maxmemory_policy") == "noeviction"
    if is_full:
        return OUT_OF_MEMORY
    has_many_clients = facts.get("connected_clients", 0) >= MAX_SHARE_OF_CLIENTS * facts.get("maxclients", math.inf)
    return TOO_MANY_CLIENTS if has_many_clients else None
