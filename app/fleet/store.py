"""The registry in Redis: an entry with a time to live for each instance, the active key of each keyring, and the last stops.

An entry belongs to one start of an instance and has the nonce of that start in its key. This distinguishes a dead predecessor
with the same INSTANCE_ID from a live duplicate.
"""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import redis

from app.redis.client import available
from app.redis.scripts import load_script
from app.server.stop_report import CRASHED, FORCED

ENTRY_TTL_SECONDS = 10
SETTLE_SECONDS = 30  # until a key that every live instance has is used: a rollback before that does no harm
ORPHAN_SECONDS = 3  # until a key that no live instance has is given up: after an outage, every instance reports first
SILENT_SECONDS = 3  # without a heartbeat for this long, an instance is hidden and its INSTANCE_ID may be reused
OUTAGE_SECONDS = 3  # without any heartbeat for this long, Redis was unavailable, and no instance is declared dead for a while
MAX_STOPS = 50

KILLED_WHILE_STOPPING = "The instance was stopping and did not sign off: it was killed, or it could not reach Redis."
VANISHED = "The instance did not sign off: it was killed, ran out of memory, lost its machine, or could not reach Redis."


# The fields of these tuples are the locals of the Lua scripts, in the order of KEYS and ARGV.


class _Keys(NamedTuple):
    crash_records: str = "fleet:instances"
    active_keys: str = "fleet:active-keys"
    stops: str = "fleet:stops"
    drained: str = "fleet:set-aside"
    heartbeats: str = "fleet:heartbeats"
    stop_counts: str = "fleet:stop-counts"


class _Heartbeat(NamedTuple):
    nonce: str
    entry_json: str
    crash_record_json: str
    status_json: str
    entry_ttl_ms: int
    settle_ms: int
    orphan_ms: int
    silent_ms: int
    outage_ms: int
    max_stops: int


class _Leave(NamedTuple):
    nonce: str
    stop_json: str
    kind: str
    max_stops: int


_KEYS = _Keys()


@dataclass(frozen=True)
class RingState:
    """The state of one keyring in the fleet: the id of the active key (None: undecided) and the ids of all known keys."""

    active: str | None
    known: frozenset[str]


@dataclass(frozen=True)
class Peer:
    """Another live instance."""

    nonce: str
    instance_id: str
    status: str
    connections: int  # the size of its database pool


@dataclass(frozen=True)
class HeartbeatReply:
    rings: dict[str, RingState]
    peers: list[Peer]
    duplicate: dict[str, Any] | None  # hostname and pid of an older live instance with the same INSTANCE_ID
    drained: bool
    stops: dict[str, int]  # how many stops there have been, by kind


class Registry:
    def __init__(self, client: redis.Redis, settle_seconds: float = SETTLE_SECONDS) -> None:
        self._client = client
        self._settle_seconds = settle_seconds
        self._heartbeat = client.register_script(load_script(__file__, "heartbeat"))
        self._leave = client.register_script(load_script(__file__, "leave"))

    def heartbeat(self, entry: dict[str, Any], about: dict[str, Any] | None = None) -> HeartbeatReply:
        """Renew the entry of an instance.

        The entry needs `instance_id`, `nonce`, `hostname`, `pid`, `status`, `is_stopping`, `pool` (size of the database pool),
        `keys` ({keyring: [key id, newest first]}) and `writes_with` ({keyring: key id}, of a ready instance). `about` is what
        `instances` returns.
        """
        arguments = _Heartbeat(
            nonce=entry["nonce"],
            entry_json=json.dumps(entry),
            crash_record_json=json.dumps(_crash_record(entry)),
            status_json=json.dumps(about) if about else "",
            entry_ttl_ms=_milliseconds(ENTRY_TTL_SECONDS),
            settle_ms=_milliseconds(self._settle_seconds),
            orphan_ms=_milliseconds(ORPHAN_SECONDS),
            silent_ms=_milliseconds(SILENT_SECONDS),
            outage_ms=_milliseconds(OUTAGE_SECONDS),
            max_stops=MAX_STOPS,
        )
        with available():
            reply = json.loads(self._heartbeat(keys=_KEYS, args=arguments))
        rings = {ring: RingState(state["active"] or None, frozenset(state["known"])) for ring, state in reply["rings"].items()}
        pairs = iter(reply["stops"])
        stops = {kind: int(count) for kind, count in zip(pairs, pairs, strict=True)}
        peers = [Peer(**peer) for peer in reply["peers"]]
        return HeartbeatReply(rings, peers, reply["duplicate"] or None, reply["drained"], stops)

    def leave(self, nonce: str, stop: dict[str, Any] | None) -> None:
        """Remove an entry. `stop` is the stop report to record, with `at` in milliseconds since 1970."""
        arguments = _Leave(nonce, json.dumps(stop) if stop else "", stop["kind"] if stop else "", MAX_STOPS)
        with available():
            self._leave(keys=_KEYS, args=arguments)

    def instances(self) -> list[dict[str, Any]]:
        """Return what each instance with a recent heartbeat says about itself, ordered by name.

        `set_aside` is True as soon as an administrator drains the instance, even if it has not been notified yet.
        """
        with available():
            nonces = cast(list[bytes], self._client.hkeys(_KEYS.crash_records))
            pipeline = self._client.pipeline(transaction=False)
            pipeline.time()
            pipeline.smembers(_KEYS.drained)
            for nonce in nonces:
                pipeline.hmget(f"fleet:instance:{nonce.decode()}", "about", "seen")
            (seconds, microseconds), drained, *records = pipeline.execute()
        now = seconds * 1000 + microseconds // 1000
        instances = [
            {**json.loads(about), "set_aside": nonce in drained}
            for nonce, (about, seen) in zip(nonces, records, strict=True)
            if about and now - int(seen) <= _milliseconds(SILENT_SECONDS)
        ]
        return sorted(instances, key=lambda about: (about["instance_id"], about["start_time"]))

    def stops(self) -> list[dict[str, Any]]:
        """Return the last stops, newest first."""
        with available():
            return [{"phases": [], **json.loads(stop)} for stop in self._client.lrange(_KEYS.stops, 0, -1)]

    def set_drained(self, nonce: str, drained: bool) -> None:
        """Drain an instance or end its drain. The instance is notified by its next heartbeat."""
        with available():
            (self._client.sadd if drained else self._client.srem)(_KEYS.drained, nonce)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _crash_record(entry: dict[str, Any]) -> dict[str, Any]:
    """The stop to record if this instance never signs off."""
    is_stopping = entry["is_stopping"]
    return {
        "instance_id": entry["instance_id"],
        "nonce": entry["nonce"],
        "kind": FORCED if is_stopping else CRASHED,
        "seconds": None,
        "summary": KILLED_WHILE_STOPPING if is_stopping else VANISHED,
    }
