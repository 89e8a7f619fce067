"""The registry of worker processes in Redis: their entries, the stops of the last ones, and the durations of all their jobs.

It is separate from the registry of instances, which compare nothing with workers: workers have no keys, sockets or readiness.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import redis
from redis.commands.core import Script

from app.fleet.store import ENTRY_TTL_SECONDS, MAX_STOPS, OUTAGE_SECONDS, SILENT_SECONDS
from app.redis.client import available, is_cluster
from app.redis.scripts import load_script
from app.server.stop_report import CRASHED, FORCED

RUNNING, STOPPING, MISSING = "running", "stopping", "missing"

KILLED_WHILE_STOPPING = "The worker was stopping and did not sign off: it was killed, or it could not reach Redis."
VANISHED = "The worker did not sign off: it was killed, ran out of memory, lost its machine, or could not reach Redis."


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
        entry = {"about": about, "crash_record": _crash_record(about)}
        durations = [word for item in job_seconds.items() for word in item]
        with available():
            self._heartbeat(keys=self._keys, args=[about["nonce"], json.dumps(entry), *durations])

    def leave(self, nonce: str, stop: dict[str, Any]) -> None:
        """Remove an entry and record its stop report, with `at` in milliseconds since 1970."""
        with available():
            self._leave(keys=self._keys, args=[nonce, json.dumps(stop), MAX_STOPS])

    def count(self) -> int:
        """Return how many workers have an entry. Those without a heartbeat for ENTRY_TTL_SECONDS lose it and have crashed."""
        with available():
            return int(self._expire(keys=self._keys, args=[ENTRY_TTL_SECONDS * 1000, OUTAGE_SECONDS * 1000, MAX_STOPS]))

    def workers(self) -> list[dict[str, Any]]:
        """Return what each worker says about itself, ordered by name, and `last_heartbeat` in seconds since 1970.

        The status of a worker without a recent heartbeat is MISSING. This reads all entries.
        """
        self.count()
        with available():
            seconds, _ = self._client.time()
            heartbeats: Any = self._client.zrange(self._keys.seen, 0, -1, withscores=True)
            entries: dict[bytes, bytes] = self._client.hgetall(self._keys.workers)  # type: ignore[assignment]
        seen = dict(heartbeats)
        workers = [
            _with_heartbeat(json.loads(entry)["about"], seen[nonce] / 1000, seconds)
            for nonce, entry in entries.items()
            if nonce in seen
        ]
        return sorted(workers, key=lambda about: (about["instance_id"], about["start_time"]))

    def stops(self) -> list[dict[str, Any]]:
        """Return the last stops of workers, newest first."""
        with available():
            return [{"phases": [], **json.loads(stop)} for stop in self._client.lrange(self._keys.stops, 0, -1)]

    def job_seconds(self) -> dict[str, float]:
        """Return the values of the SharedHistogram of all workers, since Redis has the key."""
        with available():
            values: dict[bytes, bytes] = self._client.hgetall(self._keys.job_seconds)  # type: ignore[assignment]
        return {key.decode(): float(value) for key, value in values.items()}


def _with_heartbeat(about: dict[str, Any], last_heartbeat: float, now: float) -> dict[str, Any]:
    status = MISSING if now - last_heartbeat > SILENT_SECONDS else about["status"]
    return {**about, "status": status, "last_heartbeat": last_heartbeat}


def _crash_record(about: dict[str, Any]) -> dict[str, Any]:
    """The stop to record if this worker never signs off."""
    is_stopping = about["status"] == STOPPING
    return {
        "instance_id": about["instance_id"],
        "nonce": about["nonce"],
        "kind": FORCED if is_stopping else CRASHED,
        "seconds": None,
        "summary": KILLED_WHILE_STOPPING if is_stopping else VANISHED,
    }
