"""Whether Redis keeps its data in an append-only file."""

import math
import time
from typing import Any

import redis

from app.core.warnings import OperatorWarning

INTERVAL_SECONDS = 5.0  # between two readings
APPENDONLY_OFF = OperatorWarning("appendonly_off", "appendonly is off: a restart of Redis would lose accepted events")


class RedisDurability:
    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._read_at = -math.inf
        self._warning: OperatorWarning | None = None

    def find_warning(self) -> OperatorWarning | None:
        """Return a warning if Redis has no append-only file, read every INTERVAL_SECONDS. Raises redis.RedisError."""
        if time.monotonic() - self._read_at > INTERVAL_SECONDS:
            persistence: Any = self._client.info("persistence")
            self._warning = None if persistence.get("aof_enabled") else APPENDONLY_OFF
            self._read_at = time.monotonic()
        return self._warning
