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

# One call, so that the decision is made on the entries as they are.
#
# The active key moves to another one that every live instance has held for the settling time and puts before it. Where Redis
# has lost the note of it, what a ready instance writes with counts, though another one may be the first to report. A new fleet
# takes the oldest common key, which is the cautious choice in the middle of a rotation. A key that no live instance holds is
# given up after a while: after an outage all have to report first.
#
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

local answer = {}
for ring, keys in pairs(mine.keys) do
  local noted = redis.call('HGET', KEYS[2], ring)
  local active = noted
  local claim, chosen = (mine.writes_with or {})[ring], redis.call('HGET', KEYS[2], ring .. ':chosen')
  if claim and (not active or (chosen and now - chosen < tonumber(ARGV[5]))) then active = claim end
  if active and not anybody_holds(ring, active) and mine.since <= now - ARGV[5] then active = false end
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
      if all_hold(ring, key, now - ARGV[4], active) then
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
        """Renews the entry; answers by ring.

        The entry needs `nonce`, `keys` ({ring: [key id, newest first]}) and `writes_with` ({ring: key id}, of a ready instance).
        """
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
