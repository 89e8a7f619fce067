"""Warnings about a server of Redis that answers, but refuses writes, or may soon lose data or refuse connections.

Users who are signed in are served anyway.
"""

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
APPENDONLY_OFF = OperatorWarning("appendonly_off", "appendonly is off: a restart of Redis would lose accepted events")
BY_URGENCY = (READ_ONLY, TOO_FEW_REPLICAS, OUT_OF_MEMORY, TOO_MANY_CLIENTS, APPENDONLY_OFF)

MAX_SHARE_OF_CLIENTS = 0.95  # from here on, a burst of requests may exceed maxclients


class RedisServerCheck:
    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._read_at = -math.inf
        self._warning: OperatorWarning | None = None

    def find_warning(self) -> OperatorWarning | None:
        """Return the most urgent warning, read every INTERVAL_SECONDS, or None. Raises redis.RedisError."""
        if time.monotonic() - self._read_at > INTERVAL_SECONDS:
            self._warning = _find_warning(self._client.info())
            self._read_at = time.monotonic()
        return self._warning


def _find_warning(facts: dict[str, Any]) -> OperatorWarning | None:
    """Return the warning in the facts of INFO, from which a provider may leave out some."""
    is_full = 0 < facts.get("maxmemory", 0) <= facts.get("used_memory", 0) and facts.get("maxmemory_policy") == "noeviction"
    found = {
        READ_ONLY: facts.get("role", "master") != "master",
        # Present if min-replicas-to-write is set, whose value INFO does not tell.
        TOO_FEW_REPLICAS: facts.get("min_slaves_good_slaves") == 0,
        OUT_OF_MEMORY: is_full,
        TOO_MANY_CLIENTS: facts.get("connected_clients", 0) >= MAX_SHARE_OF_CLIENTS * facts.get("maxclients", math.inf),
        APPENDONLY_OFF: not facts.get("aof_enabled"),
    }
    return next((warning for warning in BY_URGENCY if found[warning]), None)
