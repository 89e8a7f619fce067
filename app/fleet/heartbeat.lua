-- The heartbeat of one instance: renews its entry, records crashed instances, and decides the active key of each keyring.
-- It is one script because each decision needs all entries as they are at one moment.

local crash_records = KEYS[1] -- hash: nonce -> the stop to record if that instance never signs off; its fields are the instances
local active_keys = KEYS[2] -- hash: keyring -> id of its active key; "<keyring>:chosen" -> when a new fleet chose it, in ms
local stops = KEYS[3] -- list of stop records, newest first
local drained = KEYS[4] -- set of the nonces that an administrator drained
local heartbeats = KEYS[5] -- hash: `at`, the last heartbeat of any instance; `outage`, the end of the last outage of Redis
local stop_counts = KEYS[6] -- hash: kind of stop -> how many there were

local nonce = ARGV[1]
local entry_json = ARGV[2]
local crash_record_json = ARGV[3]
local status_json = ARGV[4] -- for readers of the fleet; empty: unchanged
local entry_ttl_ms = tonumber(ARGV[5])
local settle_ms = tonumber(ARGV[6])
local orphan_ms = tonumber(ARGV[7])
local silent_ms = tonumber(ARGV[8])
local outage_ms = tonumber(ARGV[9])
local max_stops = tonumber(ARGV[10])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function entry_key(of) return 'fleet:instance:' .. of end

-- Without any heartbeat for outage_ms, Redis was unavailable. Nobody is declared dead until everyone had time to report again.
local last = redis.call('HMGET', heartbeats, 'at', 'outage')
local outage = tonumber(last[2] or 0)
if not last[1] or now - last[1] > outage_ms then outage = now end
redis.call('HSET', heartbeats, 'at', now, 'outage', outage)

local mine = cjson.decode(entry_json)
mine.since = tonumber(redis.call('HGET', entry_key(nonce), 'since') or now)
redis.call('HSET', entry_key(nonce), 'entry', entry_json, 'since', mine.since, 'seen', now)
if status_json ~= '' then redis.call('HSET', entry_key(nonce), 'about', status_json) end
redis.call('PEXPIRE', entry_key(nonce), entry_ttl_ms)

-- This instance was recorded as crashed although it had only lost its connection: remove the record.
if redis.call('HEXISTS', crash_records, nonce) == 0 then
  for _, stop_json in ipairs(redis.call('LRANGE', stops, 0, -1)) do
    local stop = cjson.decode(stop_json)
    if stop.nonce == nonce then
      redis.call('LREM', stops, 1, stop_json)
      redis.call('HINCRBY', stop_counts, stop.kind, -1)
    end
  end
end
redis.call('HSET', crash_records, nonce, crash_record_json)

local function record_crash(of)
  local crash = cjson.decode(redis.call('HGET', crash_records, of))
  crash.at = now
  redis.call('LPUSH', stops, cjson.encode(crash))
  redis.call('LTRIM', stops, 0, max_stops - 1)
  redis.call('HINCRBY', stop_counts, crash.kind, 1)
  redis.call('HDEL', crash_records, of)
  redis.call('SREM', drained, of)
  redis.call('DEL', entry_key(of))
end

local live, peers, duplicate = {}, {}, false
for _, other in ipairs(redis.call('HKEYS', crash_records)) do
  local record = redis.call('HMGET', entry_key(other), 'entry', 'since', 'seen')
  local entry = record[1] and cjson.decode(record[1])
  local is_silent = entry and now - record[3] > silent_ms
  if not entry then
    if now - outage > entry_ttl_ms then record_crash(other) end
  elseif is_silent and entry.instance_id == mine.instance_id and other ~= nonce then
    record_crash(other)
  else
    entry.since = tonumber(record[2])
    table.insert(live, entry)
    if other ~= nonce and not is_silent then
      table.insert(peers, {nonce = other, instance_id = entry.instance_id, status = entry.status, connections = entry.pool})
      local is_older = entry.since < mine.since or (entry.since == mine.since and other < nonce)
      if entry.instance_id == mine.instance_id and is_older then duplicate = {hostname = entry.hostname, pid = entry.pid} end
    end
  end
end

local function position(entry, keyring, key)
  for index, held in ipairs(entry.keys[keyring] or {}) do
    if held == key then return index end
  end
end

-- Whether every live instance has had the key since `latest_start`, and lists it before the key `present`, if that is given.
local function all_hold(keyring, key, latest_start, present)
  for _, entry in ipairs(live) do
    local at = position(entry, keyring, key)
    local limit = present and position(entry, keyring, present)
    if not at or entry.since > latest_start or (limit and at > limit) then return false end
  end
  return true
end

local function anybody_holds(keyring, key)
  for _, entry in ipairs(live) do
    if position(entry, keyring, key) then return true end
  end
  return false
end

-- The active key moves to a newer one that every live instance has had for settle_ms. Where Redis lost the active key, the key
-- that a ready instance writes with counts, even if another instance reports first. A new fleet chooses the oldest common key,
-- which is the safe choice during a rotation. A key that no live instance holds is given up after orphan_ms.
local rings = {}
for keyring, keys in pairs(mine.keys) do
  local recorded = redis.call('HGET', active_keys, keyring)
  local active = recorded
  local in_use, chosen = (mine.writes_with or {})[keyring], redis.call('HGET', active_keys, keyring .. ':chosen')
  if in_use and (not active or (chosen and now - chosen < orphan_ms)) then active = in_use end
  if active and not anybody_holds(keyring, active) and mine.since <= now - orphan_ms then active = false end
  local is_first = not active
  if is_first then
    for index = #keys, 1, -1 do
      if all_hold(keyring, keys[index], now) then
        active = keys[index]
        break
      end
    end
  elseif position(mine, keyring, active) then
    for _, key in ipairs(keys) do
      if key == active then break end
      if all_hold(keyring, key, now - settle_ms, active) then
        active = key
        break
      end
    end
  end
  if active and active ~= recorded then
    redis.call('HSET', active_keys, keyring, active)
    redis.call(unpack(is_first and {'HSET', active_keys, keyring .. ':chosen', now} or {'HDEL', active_keys, keyring .. ':chosen'}))
  end
  local known = {}
  for _, entry in ipairs(live) do
    for _, key in ipairs(entry.keys[keyring] or {}) do known[key] = true end
  end
  if active then known[active] = true end
  local ids = {}
  for key in pairs(known) do table.insert(ids, key) end
  rings[keyring] = {active = active, known = ids}
end

return cjson.encode({
  rings = rings,
  peers = peers,
  duplicate = duplicate,
  drained = redis.call('SISMEMBER', drained, nonce) == 1,
  stops = redis.call('HGETALL', stop_counts),
})
