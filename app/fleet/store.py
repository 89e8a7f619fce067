"""The registry of live instances, in Redis: an entry each, with a time to live, and the keys that the fleet writes with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import redis

from app.redis_client import available

ENTRY_TTL_SECONDS = 10
SETTLE_SECONDS = 30  # a new key is used after every live instance has held it that long: a roll-back until then harms nobody
ORPHAN_SECONDS = 3  # a key that nobody alive holds is given up after that: after an outage all have to report first

# One call, so that the decision is made on the entries as they are. The active key moves to a newer one of the caller's list once
# all hold that; it is chosen anew where no live instance holds it.
# KEYS: list of instances, active keys. ARGV: instance id, entry as JSON, entry's ttl, settling time and orphan's time in ms
_HEARTBEAT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local mine = cjson.decode(ARGV[2])
local own_key = 'fleet:instance:' .. ARGV[1]
local before = redis.call('GET', own_key)
mine.since = now
if before then
  before = cjson.decode(before)
  if before.nonce == mine.nonce then mine.since = before.since end
end
redis.call('SET', own_key, cjson.encode(mine), 'PX', ARGV[3])
redis.call('SADD', KEYS[1], ARGV[1])

local live = {}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local entry = redis.call('GET', 'fleet:instance:' .. id)
  if entry then table.insert(live, cjson.decode(entry)) else redis.call('SREM', KEYS[1], id) end
end

local function holds(entry, ring, key)
  for _, held in ipairs(entry.keys[ring] or {}) do
    if held == key then return true end
  end
  return false
end

local function count_holders(ring, key, youngest)
  local count = 0
  for _, entry in ipairs(live) do
    if holds(entry, ring, key) and entry.since <= youngest then count = count + 1 end
  end
  return count
end

local answer = {}
for ring, keys in pairs(mine.keys) do
  local active = redis.call('HGET', KEYS[2], ring)
  if active and count_holders(ring, active, now) == 0 and mine.since <= now - ARGV[5] then active = false end
  local youngest = active and now - ARGV[4] or now
  if not active or holds(mine, ring, active) then
    for _, key in ipairs(keys) do
      if key == active then break end
      if count_holders(ring, key, youngest) == #live then
        active = key
        redis.call('HSET', KEYS[2], ring, key)
        break
      end
    end
  end
  local known = {}
  for _, entry in ipairs(live) do
    for _, key in ipairs(entry.keys[ring] or {}) do known[key] = true end
  end
  if active then known[active] = true end
  local ids = {}
  for key in pairs(known) do table.insert(ids, key) end
  answer[ring] = {active = active, known = ids}
end
return cjson.encode(answer)
"""

_REMOVE = """
local entry = redis.call('GET', KEYS[1])
if entry and cjson.decode(entry).nonce == ARGV[2] then
  redis.call('DEL', KEYS[1])
  redis.call('SREM', KEYS[2], ARGV[1])
end
"""


@dataclass(frozen=True)
class RingState:
    """Of one secret in the fleet: the id of the key that is written with (None: undecided), and all that are known."""

    active: str | None
    known: frozenset[str]


class Registry:
    def __init__(self, client: redis.Redis, settle_seconds: float = SETTLE_SECONDS) -> None:
        self._client = client
        self._settle_seconds = settle_seconds
        self._heartbeat = client.register_script(_HEARTBEAT)
        self._remove = client.register_script(_REMOVE)

    def heartbeat(self, instance_id: str, entry: dict[str, Any]) -> dict[str, RingState]:
        """Renews the entry, which needs `nonce` and `keys` ({ring: [key id, newest first]}); answers by ring."""
        arguments: list[str | int] = [
            instance_id,
            json.dumps(entry),
            ENTRY_TTL_SECONDS * 1000,
            int(self._settle_seconds * 1000),
            ORPHAN_SECONDS * 1000,
        ]
        with available():
            answer = json.loads(self._heartbeat(keys=["fleet:instances", "fleet:active-keys"], args=arguments))
        return {ring: RingState(state["active"] or None, frozenset(state["known"])) for ring, state in answer.items()}

    def remove(self, instance_id: str, nonce: str) -> None:
        with available():
            self._remove(keys=[f"fleet:instance:{instance_id}", "fleet:instances"], args=[instance_id, nonce])
