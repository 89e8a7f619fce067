"""The registry, in Redis: an entry with a time to live for each instance, the keys that the fleet writes with, the last stops.

An entry belongs to one start of an instance and lies under its nonce, so that a dead predecessor of the same name and a living
double can be told apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

import redis

from app.redis.client import available
from app.server.stop_report import CRASHED, FORCED

ENTRY_TTL_SECONDS = 10
SETTLE_SECONDS = 30  # a new key is used after every live instance has held it that long: a roll-back until then harms nobody
ORPHAN_SECONDS = 3  # a key that nobody alive holds is given up after that: after an outage all have to report first
SILENT_SECONDS = 3  # an instance that was not heard for that long is shown no more, and makes way for one of the same name
OUTAGE_SECONDS = (
    3  # where nobody at all was heard for that long, it was Redis; then nobody is taken for dead until all could report
)
KEPT_STOPS = 50

KILLED = "was stopping, and did not sign off: killed, or Redis could not be reached"
GONE = "did not sign off: killed, out of memory, its machine is gone, or Redis could not be reached"

# One call, so that decisions are made on the entries as they are.
#
# Who is gone without a word has crashed, or was killed while it stopped. Whoever notices first writes that down. Who comes back
# after that was only cut off, and it is struck out.
#
# The active key moves to another one that every live instance has held for the settling time and puts before it. Where Redis
# has lost the note of it, what a ready instance writes with counts, though another one may be the first to report. A new fleet
# takes the oldest common key, which is the cautious choice in the middle of a rotation. A key that no live instance holds is
# given up after a while: after an outage all have to report first.
#
# KEYS: instances (hash: nonce -> what to write down if it dies), active keys, stops, set aside, the time of the last heartbeat,
# how many stops there were of each kind.
# ARGV: nonce, entry, crash record; in milliseconds: entry's ttl, settling, orphan's, silence's, outage's time; the kept stops;
# what readers are told
_HEARTBEAT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl_ms, settle_ms, orphan_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local silent_ms, outage_ms = tonumber(ARGV[7]), tonumber(ARGV[8])

local before = redis.call('HMGET', KEYS[5], 'at', 'outage')
local outage = tonumber(before[2] or 0)
if not before[1] or now - before[1] > outage_ms then outage = now end
redis.call('HSET', KEYS[5], 'at', now, 'outage', outage)

local mine = cjson.decode(ARGV[2])
local function key_of(nonce) return 'fleet:instance:' .. nonce end
mine.since = tonumber(redis.call('HGET', key_of(ARGV[1]), 'since') or now)
redis.call('HSET', key_of(ARGV[1]), 'entry', ARGV[2], 'since', mine.since, 'seen', now)
if ARGV[10] ~= '' then redis.call('HSET', key_of(ARGV[1]), 'about', ARGV[10]) end
redis.call('PEXPIRE', key_of(ARGV[1]), ttl_ms)

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  for _, stop in ipairs(redis.call('LRANGE', KEYS[3], 0, -1)) do
    local told = cjson.decode(stop)
    if told.nonce == ARGV[1] then
      redis.call('LREM', KEYS[3], 1, stop)
      redis.call('HINCRBY', KEYS[6], told.kind, -1)
    end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])

local function record_crash(nonce)
  local crash_record = cjson.decode(redis.call('HGET', KEYS[1], nonce))
  crash_record.at = now
  redis.call('LPUSH', KEYS[3], cjson.encode(crash_record))
  redis.call('LTRIM', KEYS[3], 0, ARGV[9] - 1)
  redis.call('HINCRBY', KEYS[6], crash_record.kind, 1)
  redis.call('HDEL', KEYS[1], nonce)
  redis.call('SREM', KEYS[4], nonce)
  redis.call('DEL', key_of(nonce))
end

local live, peers, duplicate = {}, {}, false
for _, nonce in ipairs(redis.call('HKEYS', KEYS[1])) do
  local record = redis.call('HMGET', key_of(nonce), 'entry', 'since', 'seen')
  local entry = record[1] and cjson.decode(record[1])
  local silent = entry and now - record[3] > silent_ms
  if not entry then
    if now - outage > ttl_ms then record_crash(nonce) end
  elseif silent and entry.instance_id == mine.instance_id and nonce ~= ARGV[1] then
    record_crash(nonce)
  else
    entry.since = tonumber(record[2])
    table.insert(live, entry)
    if nonce ~= ARGV[1] and not silent then
      table.insert(peers, {nonce = nonce, instance_id = entry.instance_id, status = entry.status, connections = entry.pool})
      local elder = entry.since < mine.since or (entry.since == mine.since and nonce < ARGV[1])
      if entry.instance_id == mine.instance_id and elder then duplicate = {hostname = entry.hostname, pid = entry.pid} end
    end
  end
end

local function position(entry, ring, key)
  for index, held in ipairs(entry.keys[ring] or {}) do
    if held == key then return index end
  end
end

local function all_hold(ring, key, youngest, present)
  for _, entry in ipairs(live) do
    local at = position(entry, ring, key)
    local limit = present and position(entry, ring, present)
    if not at or entry.since > youngest or (limit and at > limit) then return false end
  end
  return true
end

local function anybody_holds(ring, key)
  for _, entry in ipairs(live) do
    if position(entry, ring, key) then return true end
  end
  return false
end

local rings = {}
for ring, keys in pairs(mine.keys) do
  local noted = redis.call('HGET', KEYS[2], ring)
  local active = noted
  local claim, chosen = (mine.writes_with or {})[ring], redis.call('HGET', KEYS[2], ring .. ':chosen')
  if claim and (not active or (chosen and now - chosen < orphan_ms)) then active = claim end
  if active and not anybody_holds(ring, active) and mine.since <= now - orphan_ms then active = false end
  local first = not active
  if first then
    for index = #keys, 1, -1 do
      if all_hold(ring, keys[index], now) then
        active = keys[index]
        break
      end
    end
  elseif position(mine, ring, active) then
    for _, key in ipairs(keys) do
      if key == active then break end
      if all_hold(ring, key, now - settle_ms, active) then
        active = key
        break
      end
    end
  end
  if active and active ~= noted then
    redis.call('HSET', KEYS[2], ring, active)
    redis.call(unpack(first and {'HSET', KEYS[2], ring .. ':chosen', now} or {'HDEL', KEYS[2], ring .. ':chosen'}))
  end
  local known = {}
  for _, entry in ipairs(live) do
    for _, key in ipairs(entry.keys[ring] or {}) do known[key] = true end
  end
  if active then known[active] = true end
  local ids = {}
  for key in pairs(known) do table.insert(ids, key) end
  rings[ring] = {active = active, known = ids}
end
local aside = redis.call('SISMEMBER', KEYS[4], ARGV[1]) == 1
local stops = redis.call('HGETALL', KEYS[6])
return cjson.encode({rings = rings, peers = peers, duplicate = duplicate, aside = aside, stops = stops})
"""

# KEYS: as above. ARGV: nonce, the account of its stop, the kept stops, the kind of the stop
_LEAVE = """
redis.call('DEL', 'fleet:instance:' .. ARGV[1])
redis.call('SREM', KEYS[4], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 and ARGV[2] ~= '' then
  redis.call('LPUSH', KEYS[3], ARGV[2])
  redis.call('LTRIM', KEYS[3], 0, ARGV[3] - 1)
  redis.call('HINCRBY', KEYS[6], ARGV[4], 1)
end
"""

_KEYS = ["fleet:instances", "fleet:active-keys", "fleet:stops", "fleet:set-aside", "fleet:heartbeats", "fleet:stop-counts"]
_INSTANCES, _, _STOPS, _SET_ASIDE, _, _ = _KEYS


@dataclass(frozen=True)
class RingState:
    """Of one secret in the fleet: the id of the key that is written with (None: undecided), and all that are known."""

    active: str | None
    known: frozenset[str]


@dataclass(frozen=True)
class Peer:
    """Another live instance."""

    nonce: str
    instance_id: str
    status: str
    connections: int  # to the database, at most


@dataclass(frozen=True)
class HeartbeatReply:
    """`duplicate`: an older live instance with the same INSTANCE_ID. `stops`: the number of stops so far, by kind."""

    rings: dict[str, RingState]
    peers: list[Peer]
    duplicate: dict[str, Any] | None
    set_aside: bool
    stops: dict[str, int]


class Registry:
    def __init__(self, client: redis.Redis, settle_seconds: float = SETTLE_SECONDS) -> None:
        self._client = client
        self._settle_seconds = settle_seconds
        self._heartbeat = client.register_script(_HEARTBEAT)
        self._leave = client.register_script(_LEAVE)

    def heartbeat(self, entry: dict[str, Any], about: dict[str, Any] | None = None) -> HeartbeatReply:
        """Renews the entry.

        It needs `instance_id`, `nonce`, `hostname`, `pid`, `status`, `is_stopping`, `pool` (of connections to the database),
        `keys` ({ring: [key id, newest first]}) and `writes_with` ({ring: key id}, of a ready instance). `about` is for readers.
        """
        times = (ENTRY_TTL_SECONDS, self._settle_seconds, ORPHAN_SECONDS, SILENT_SECONDS, OUTAGE_SECONDS)
        milliseconds = [int(seconds * 1000) for seconds in times]
        words = json.dumps(about) if about else ""
        arguments = [entry["nonce"], json.dumps(entry), json.dumps(_crash_record(entry)), *milliseconds, KEPT_STOPS, words]
        with available():
            answer = json.loads(self._heartbeat(keys=_KEYS, args=arguments))
        rings = {ring: RingState(state["active"] or None, frozenset(state["known"])) for ring, state in answer["rings"].items()}
        peers = [Peer(**peer) for peer in answer["peers"]]
        words = iter(answer["stops"])
        stops = {kind: int(count) for kind, count in zip(words, words, strict=True)}
        return HeartbeatReply(rings, peers, answer["duplicate"] or None, answer["aside"], stops)

    def leave(self, nonce: str, stop: dict[str, Any] | None) -> None:
        """`stop`: the account of it that is kept, with `at` in milliseconds since 1970."""
        with available():
            self._leave(keys=_KEYS, args=[nonce, json.dumps(stop) if stop else "", KEPT_STOPS, stop["kind"] if stop else ""])

    def instances(self) -> list[dict[str, Any]]:
        """What is to be told of those that were heard lately, in the order of their names.

        `set_aside`: an administrator ordered that; the instance itself may not know yet.
        """
        with available():
            nonces = cast(list[bytes], self._client.hkeys(_INSTANCES))
            pipeline = self._client.pipeline(transaction=False)
            pipeline.time()
            pipeline.smembers(_SET_ASIDE)
            for nonce in nonces:
                pipeline.hmget(f"fleet:instance:{nonce.decode()}", "about", "seen")
            (seconds, microseconds), aside, *records = pipeline.execute()
        now = seconds * 1000 + microseconds // 1000
        heard = [
            {**json.loads(about), "set_aside": nonce in aside}
            for nonce, (about, seen) in zip(nonces, records, strict=True)
            if about and now - int(seen) <= SILENT_SECONDS * 1000
        ]
        return sorted(heard, key=lambda about: (about["instance_id"], about["start_time"]))

    def stops(self) -> list[dict[str, Any]]:
        """The last ones, newest first."""
        with available():
            return [{"phases": [], **json.loads(stop)} for stop in self._client.lrange(_STOPS, 0, -1)]

    def set_drained(self, nonce: str, wanted: bool) -> None:
        """An order to an instance, which finds it with its next heartbeat."""
        with available():
            (self._client.sadd if wanted else self._client.srem)(_SET_ASIDE, nonce)


def _crash_record(entry: dict[str, Any]) -> dict[str, Any]:
    """What is written down if this instance is never heard again."""
    was_stopping = entry["is_stopping"]
    return {
        "instance_id": entry["instance_id"],
        "nonce": entry["nonce"],
        "kind": FORCED if was_stopping else CRASHED,
        "seconds": None,
        "summary": KILLED if was_stopping else GONE,
    }
