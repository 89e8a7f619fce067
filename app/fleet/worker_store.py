"""The registry of worker processes in Redis: their entries, the stops of the last ones, and the durations of all their jobs.

It is separate from the registry of instances, because workers have no keys, sockets or readiness that instances could compare.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import redis
from redis.commands.core import Script

from app.fleet.store import ENTRY_TTL_SECONDS, MAX_STOPS, OUTAGE_SECONDS, SILENT_SECONDS, crash_record
from app.redis.client import available, is_cluster
from app.redis.scripts import load_script

RUNNING, STOPPING, MISSING = "running", "stopping", "missing"


# The fields of this tuple are the locals of the Lua scripts, in the order of KEYS.
class _Keys(NamedTuple):
    workers: str = "workers"
    seen: str = "worker-heartbeats"
    stops: str = "worker-stops"
    job_seconds: str = "job-seconds"
    heartbeats: str = "heartbeats"


class WorkerRegistry:
    """Every method raises Unavailable if Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        tag = "{fleet}" if is_cluster(client) else "fleet"  # in a cluster, all keys are in one slot
        self._keys = _Keys._make(f"{tag}:{name}" for name in _Keys())
        self._heartbeat, self._leave = self._register("worker_heartbeat"), self._register("worker_leave")
        self._expire = self._register("expire_workers")

    def _register(self, script: str) -> Script:
        return self._client.register_script(f"{load_script(__file__, 'worker_keys')}\n{load_script(__file__, script)}")

    def heartbeat(self, about: dict[str, Any], job_seconds: Mapping[str, float]) -> None:
        """Renew the entry of a worker and add the durations of jobs. The cost does not depend on the number of workers.

        `about` is what `workers` returns, without `last_heartbeat`. `job_seconds` are new values of the SharedHistogram.
        """
        entry = {"about": about, "crash_record": crash_record("worker", about, is_stopping=about["status"] == STOPPING)}
        durations = [word for item in job_seconds.items() for word in item]
        with available():
            self._heartbeat(keys=self._keys, args=[about["nonce"], json.dumps(entry), *durations])

    def leave(self, nonce: str, stop: dict[str, Any]) -> None:
        """Remove an entry and record its stop report, with `at` in milliseconds since 1970."""
        with available():
            self._leave(keys=self._keys, args=[nonce, json.dumps(stop), MAX_STOPS])

    def count(self) -> int:
        """Return how many workers have an entry. Those without a heartbeat for ENTRY_TTL_SECONDS lose it and have crashed."""
        count, _ = self._expire_silent()
        return count

    def workers(self) -> list[dict[str, Any]]:
        """Return what each worker says about itself, ordered by name, and `last_heartbeat` in seconds since 1970.

        The status of a worker without a recent heartbeat is MISSING. This reads all entries.
        """
        _, now_ms = self._expire_silent()
        with available():
            heartbeats: Any = self._client.zrange(self._keys.seen, 0, -1, withscores=True)
            entries: dict[bytes, bytes] = self._client.hgetall(self._keys.workers)  # type: ignore[assignment]
        seen = dict(heartbeats)
        workers = [
            _with_heartbeat(json.loads(entry)["about"], seen[nonce], now_ms) for nonce, entry in entries.items() if nonce in seen
        ]
        return sorted(workers, key=lambda about: (about["instance_id"], about["start_time"]))

    def _expire_silent(self) -> tuple[int, int]:
        """Return the number of workers, and the time in ms of the server that records their heartbeats."""
        with available():
            reply: Any = self._expire(keys=self._keys, args=[ENTRY_TTL_SECONDS * 1000, OUTAGE_SECONDS * 1000, MAX_STOPS])
        count, now_ms = reply
        return count, now_ms

    def stops(self) -> list[dict[str, Any]]:
        """Return the last stops of workers, newest first."""
        with available():
            return [{"phases": [], **json.loads(stop)} for stop in self._client.lrange(self._keys.stops, 0, -1)]

    def job_seconds(self) -> dict[str, float]:
        """Return the values of the SharedHistogram of all workers, since Redis has the key."""
        with available():
            values: dict[bytes, bytes] = self._client.hgetall(self._keys.job_seconds)  # type: ignore[assignment]
        return {key.decode(): float(value) for key, value in values.items()}


def _with_heartbeat(about: dict[str, Any], heartbeat_ms: float, now_ms: int) -> dict[str, Any]:
    status = MISSING if now_ms - heartbeat_ms > SILENT_SECONDS * 1000 else about["status"]
    return {**about, "status": status, "last_heartbeat": heartbeat_ms / 1000}
