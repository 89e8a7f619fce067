"""The registry in Redis: an entry with a time to live for each instance, the active key of each keyring, and the last stops.

An entry belongs to one start of an instance and has the nonce of that start in its key. This distinguishes a dead predecessor
with the same INSTANCE_ID from a live duplicate.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis
from redis.commands.core import Script

from app.redis.client import available, is_cluster
from app.redis.scripts import load_script
from app.server.stop_report import CRASHED, FORCED

ENTRY_TTL_SECONDS = 10
SETTLE_SECONDS = 30  # until a key that every live instance has is used: a rollback before that does no harm
ORPHAN_SECONDS = 3  # until a key that no live instance has is given up: after an outage, every instance reports first
SILENT_SECONDS = 3  # without a heartbeat for this long, an instance is hidden and its INSTANCE_ID may be reused
OUTAGE_SECONDS = 3  # without any heartbeat for this long, Redis was unavailable, and no instance is declared dead for a while
MAX_STOPS = 50

KILLED_WHILE_STOPPING = "The {} was stopping and did not sign off: it was killed, or it could not reach Redis."
VANISHED = "The {} did not sign off: it was killed, ran out of memory, lost its machine, or could not reach Redis."


# The fields of these tuples are the locals of the Lua scripts, in the order of KEYS and ARGV.


class _Keys(NamedTuple):
    crash_records: str = "instances"
    active_keys: str = "active-keys"
    stops: str = "stops"
    drained: str = "set-aside"
    heartbeats: str = "heartbeats"
    stop_counts: str = "stop-counts"
    members: str = "members"
    profiles: str = "profiles"
    deadlines: str = "deadlines"
    starts: str = "starts"
    names: str = "names"
    sockets: str = "sockets"


class _Heartbeat(NamedTuple):
    entry_prefix: str
    nonce: str
    entry_json: str
    profile_json: str
    crash_record_json: str
    status_json: str
    entry_ttl_ms: int
    settle_ms: int
    orphan_ms: int
    silent_ms: int
    outage_ms: int
    max_stops: int


class _Leave(NamedTuple):
    entry_prefix: str
    nonce: str
    stop_json: str
    kind: str
    max_stops: int


class _Instances(NamedTuple):
    entry_prefix: str
    field: str


_PROFILE = ("status", "is_stopping", "pool", "keys")  # the fields of an entry that most instances share


@dataclass(frozen=True)
class RingState:
    """The state of one keyring in the fleet: the id of the active key (None: undecided) and the ids of all known keys."""

    active: str | None
    known: frozenset[str]


@dataclass(frozen=True)
class FleetTotals:
    """Sums over the instances with a recent heartbeat, including the one that asks."""

    instances: int
    connections: int  # the sizes of their database pools
    ready: int  # how many of them are ready
    sockets: int  # of those that are ready
    fewest_sockets: int  # of one that is ready; 0 if none is
    is_changing: bool  # an instance is starting, stopping or silent, or does not report its sockets (the previous release)

    @property
    def mean_sockets(self) -> float:
        """The sockets of a ready instance on average; 0 if none is ready."""
        return self.sockets / self.ready if self.ready else 0.0


@dataclass(frozen=True)
class HeartbeatReply:
    rings: dict[str, RingState]
    totals: FleetTotals
    duplicate: dict[str, Any] | None  # hostname and pid of an older live instance with the same INSTANCE_ID
    drained: bool
    stops: dict[str, int]  # how many stops there have been, by kind


@dataclass(frozen=True)
class Peer:
    """An instance with a recent heartbeat."""

    nonce: str
    instance_id: str
    status: str


class Registry:
    def __init__(self, client: redis.Redis, settle_seconds: float = SETTLE_SECONDS) -> None:
        self._client = client
        self._settle_seconds = settle_seconds
        tag = "{fleet}" if is_cluster(client) else "fleet"  # in a cluster, all keys are in one slot
        self._keys = _Keys._make(f"{tag}:{name}" for name in _Keys())
        self._entry_prefix = f"{tag}:instance:"
        self._heartbeat, self._leave, self._instances = map(self._register, ("heartbeat", "leave", "instances"))

    def _register(self, script: str) -> Script:
        return self._client.register_script(f"{load_script(__file__, 'members')}\n{load_script(__file__, script)}")

    def heartbeat(self, entry: dict[str, Any], about: dict[str, Any] | None = None) -> HeartbeatReply:
        """Renew the entry of an instance. The cost does not depend on the number of instances.

        The entry needs `instance_id`, `nonce`, `hostname`, `pid`, `status`, `is_stopping`, `pool` (size of the database pool),
        `sockets` (how many are open), `keys` ({keyring: [key id, newest first]}) and `writes_with` ({keyring: key id}, of a ready
        instance). `about` is what `instances` returns.
        """
        arguments = _Heartbeat(
            entry_prefix=self._entry_prefix,
            nonce=entry["nonce"],
            entry_json=json.dumps(entry),
            profile_json=json.dumps({field: entry[field] for field in _PROFILE}, sort_keys=True),
            crash_record_json=json.dumps(crash_record("instance", entry, is_stopping=entry["is_stopping"])),
            status_json=json.dumps(about) if about else "",
            entry_ttl_ms=_milliseconds(ENTRY_TTL_SECONDS),
            settle_ms=_milliseconds(self._settle_seconds),
            orphan_ms=_milliseconds(ORPHAN_SECONDS),
            silent_ms=_milliseconds(SILENT_SECONDS),
            outage_ms=_milliseconds(OUTAGE_SECONDS),
            max_stops=MAX_STOPS,
        )
        with available():
            reply = json.loads(self._heartbeat(keys=self._keys, args=arguments))
        rings = {ring: RingState(state["active"] or None, frozenset(state["known"])) for ring, state in reply["rings"].items()}
        pairs = iter(reply["stops"])
        stops = {kind: int(count) for kind, count in zip(pairs, pairs, strict=True)}
        return HeartbeatReply(rings, FleetTotals(**reply["totals"]), reply["duplicate"] or None, reply["drained"], stops)

    def leave(self, nonce: str, stop: dict[str, Any] | None) -> None:
        """Remove an entry. `stop` is the stop report to record, with `at` in milliseconds since 1970."""
        stop_json, kind = (json.dumps(stop), stop["kind"]) if stop else ("", "")
        with available():
            self._leave(keys=self._keys, args=_Leave(self._entry_prefix, nonce, stop_json, kind, MAX_STOPS))

    def instances(self) -> list[dict[str, Any]]:
        """Return what each instance with a recent heartbeat says about itself, ordered by name. This reads all entries.

        `set_aside` is True as soon as an administrator drains the instance, even if it has not been notified yet.
        """
        instances = [{**about, "set_aside": is_drained} for _, about, is_drained in self._read("about")]
        return sorted(instances, key=lambda about: (about["instance_id"], about["start_time"]))

    def peers(self) -> list[Peer]:
        """Return all instances with a recent heartbeat. This reads all entries."""
        return [Peer(nonce, entry["instance_id"], entry["status"]) for nonce, entry, _ in self._read("entry")]

    def _read(self, field: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
        """Yield the nonce, one field of the entry, and whether it is drained, for each instance with a recent heartbeat."""
        with available():
            now, *found = self._instances(keys=self._keys, args=_Instances(self._entry_prefix, field))
        for nonce, value, seen, is_drained in found:
            if now - seen <= _milliseconds(SILENT_SECONDS):
                yield nonce.decode(), json.loads(value), bool(is_drained)

    def stops(self) -> list[dict[str, Any]]:
        """Return the last stops, newest first."""
        with available():
            return [{"phases": [], **json.loads(stop)} for stop in self._client.lrange(self._keys.stops, 0, -1)]

    def set_drained(self, nonce: str, drained: bool) -> None:
        """Drain an instance or end its drain. The instance is notified by its next heartbeat."""
        with available():
            (self._client.sadd if drained else self._client.srem)(self._keys.drained, nonce)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def crash_record(process: str, entry: dict[str, Any], *, is_stopping: bool) -> dict[str, Any]:
    """Return the stop to record if this process never signs off. `process`: instance or worker."""
    return {
        "instance_id": entry["instance_id"],
        "nonce": entry["nonce"],
        "kind": FORCED if is_stopping else CRASHED,
        "seconds": None,
        "summary": (KILLED_WHILE_STOPPING if is_stopping else VANISHED).format(process),
    }
