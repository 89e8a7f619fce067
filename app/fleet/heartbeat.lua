-- The heartbeat of one instance: renews its entry, removes instances that vanished, and decides the active key of each keyring.
-- It is one script because each decision needs all instances as they are at one moment.

local nonce = ARGV[2]
local entry_json = ARGV[3]
local profile_json = ARGV[4] -- the fields of the entry that most instances share
local crash_record_json = ARGV[5]
local status_json = ARGV[6] -- for readers of the fleet; empty: unchanged
local entry_ttl_ms = tonumber(ARGV[7])
local settle_ms = tonumber(ARGV[8])
local orphan_ms = tonumber(ARGV[9])
local silent_ms = tonumber(ARGV[10])
local outage_ms = tonumber(ARGV[11])
local max_stops = tonumber(ARGV[12])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- This instance was recorded as crashed although it had only lost its connection: remove the record.
local recorded_crash = redis.call('HGET', crash_records, nonce)
if not recorded_crash then
  for _, stop_json in ipairs(redis.call('LRANGE', stops, 0, -1)) do
    local stop = cjson.decode(stop_json)
    if stop.nonce == nonce then
      redis.call('LREM', stops, 1, stop_json)
      redis.call('HINCRBY', stop_counts, stop.kind, -1)
    end
  end
end
if recorded_crash ~= crash_record_json then redis.call('HSET', crash_records, nonce, crash_record_json) end

-- Without any heartbeat for outage_ms, Redis was unavailable. Nobody is declared dead until everyone had time to report again.
local last_at, last_member_at, last_outage = unpack(redis.call('HMGET', heartbeats, 'at', 'member_at', 'outage'))
local outage = tonumber(last_outage or 0)
if not last_at or now - last_at > outage_ms then outage = now end
redis.call('HSET', heartbeats, 'at', now, 'member_at', now, 'outage', outage)

local mine = cjson.decode(entry_json)
local since = redis.call('HGET', entry_key(nonce), 'since')
if not since then forget(nonce) end -- it has expired: after an outage everyone starts anew, see orphan_ms
mine.since = tonumber(since or now)
local my_profile = 'heard ' .. profile_json
local _, profile_before = member(nonce)
if profile_before ~= my_profile then set_profile(nonce, mine.instance_id, my_profile, profile_before) end
if not profile_before then
  redis.call('ZADD', names, 0, mine.instance_id .. ' ' .. nonce)
  redis.call('ZADD', starts, mine.since, nonce)
  recount()
end
set_sockets(nonce, mine.status == 'ready' and mine.sockets)
redis.call('ZADD', deadlines, now + silent_ms, nonce)
local about = status_json ~= '' and {'about', status_json} or {}
redis.call('HSET', entry_key(nonce), 'entry', entry_json, 'since', mine.since, 'seen', now, unpack(about))
redis.call('PEXPIRE', entry_key(nonce), entry_ttl_ms)

local function record_crash(of)
  local crash_json = redis.call('HGET', crash_records, of)
  if crash_json then
    local crash = cjson.decode(crash_json)
    crash.at = now
    redis.call('LPUSH', stops, cjson.encode(crash))
    redis.call('LTRIM', stops, 0, max_stops - 1)
    redis.call('HINCRBY', stop_counts, crash.kind, 1)
    redis.call('HDEL', crash_records, of)
  end
  redis.call('SREM', drained, of)
  redis.call('DEL', entry_key(of))
  forget(of)
end

for _, other in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', '(' .. now)) do
  local instance_id, profile = member(other)
  local json = profile and profile:match('^heard (.*)$')
  if json and redis.call('EXISTS', entry_key(other)) == 1 then
    set_profile(other, instance_id, 'silent ' .. json, profile)
    set_sockets(other, false)
    redis.call('ZINCRBY', deadlines, entry_ttl_ms - silent_ms, other)
  else
    forget(other) -- what is left is its crash record, and `others` below
  end
end

-- An instance of the same name: a silent one has crashed, an older one makes this instance a duplicate. Returns whether it lives.
local duplicate = false
local function compare_namesake(other, since, is_silent)
  if is_silent then
    record_crash(other)
  elseif since < mine.since or (since == mine.since and other < nonce) then
    local entry = cjson.decode(redis.call('HGET', entry_key(other), 'entry') or '{}')
    duplicate = {hostname = entry.hostname, pid = entry.pid}
  end
  return not is_silent
end

for _, name in ipairs(redis.call('ZRANGEBYLEX', names, '[' .. mine.instance_id .. ' ', '(' .. mine.instance_id .. '!')) do
  local other = name:match(' (.*)$')
  if other ~= nonce then
    local _, profile = member(other)
    if profile then compare_namesake(other, tonumber(redis.call('ZSCORE', starts, other)) or now, profile:match('^silent ')) end
  end
end

-- Instances with a crash record that are no members: those that expired, and those of the previous release. That release knows
-- nothing of members: it removes them without telling, and does not set `member_at`.
local others = {}
if last_at ~= last_member_at or redis.call('HLEN', crash_records) ~= redis.call('HLEN', members) then
  local removed, unknown = {}, {}
  for _, of in ipairs(redis.call('HKEYS', members)) do removed[of] = true end
  for _, of in ipairs(redis.call('HKEYS', crash_records)) do
    if removed[of] then removed[of] = nil else table.insert(unknown, of) end
  end
  for of in pairs(removed) do forget(of) end
  for _, of in ipairs(unknown) do
    local json, since, seen = unpack(redis.call('HMGET', entry_key(of), 'entry', 'since', 'seen'))
    if json then
      local entry = cjson.decode(json)
      entry.since, entry.is_silent, entry.count = tonumber(since), now - seen > silent_ms, 1
      if entry.instance_id ~= mine.instance_id or compare_namesake(of, entry.since, entry.is_silent) then
        table.insert(others, entry)
      end
    elseif now - outage > entry_ttl_ms then
      record_crash(of)
    end
  end
end

local live = {} -- profiles of live instances: status, is_stopping, pool, keys, is_silent, count
local latest_start = tonumber(redis.call('ZREVRANGE', starts, 0, 0, 'WITHSCORES')[2] or mine.since)
for _, other in ipairs(others) do
  table.insert(live, other)
  latest_start = math.max(latest_start, other.since)
end
local counts = redis.call('HGETALL', profiles)
if #counts == 0 then -- Redis lost the key
  recount()
  counts = redis.call('HGETALL', profiles)
end
for index = 1, #counts, 2 do
  local state, json = counts[index]:match('^(%a+) (.*)$')
  local profile = cjson.decode(json)
  profile.is_silent, profile.count = state == 'silent', tonumber(counts[index + 1])
  table.insert(live, profile)
end

local totals = {
  instances = 0,
  connections = 0,
  ready = redis.call('ZCARD', sockets),
  sockets = tonumber(redis.call('HGET', heartbeats, 'sockets') or 0),
  fewest_sockets = tonumber(redis.call('ZRANGE', sockets, 0, 0, 'WITHSCORES')[2] or 0),
  is_changing = #others > 0, -- the sockets of the previous release are unknown
}
for _, profile in ipairs(live) do
  if profile.is_silent or profile.is_stopping or profile.status == 'starting' then totals.is_changing = true end
  if not profile.is_silent then
    totals.instances = totals.instances + profile.count
    totals.connections = totals.connections + profile.count * profile.pool
  end
end

local function position(profile, keyring, key)
  for index, held in ipairs(profile.keys[keyring] or {}) do
    if held == key then return index end
  end
end

-- Whether every live instance has had the key since `settled_at`, and lists it before the key `present`, if that is given.
local function all_hold(keyring, key, settled_at, present)
  for _, profile in ipairs(live) do
    local at = position(profile, keyring, key)
    local limit = present and position(profile, keyring, present)
    if not at or (limit and at > limit) then return false end
  end
  return latest_start <= settled_at
end

local function anybody_holds(keyring, key)
  for _, profile in ipairs(live) do
    if position(profile, keyring, key) then return true end
  end
  return false
end

-- The active key moves to a newer one that every live instance has had for settle_ms. Where Redis lost the active key, the key
-- that a ready instance writes with counts, even if another instance reports first. A new fleet chooses the oldest common key,
-- which is the safe choice during a rotation. A key that no live instance holds is given up after orphan_ms.
local rings = {}
for keyring, keys in pairs(mine.keys) do
  local recorded, chosen = unpack(redis.call('HMGET', active_keys, keyring, keyring .. ':chosen'))
  local active, in_use = recorded, (mine.writes_with or {})[keyring]
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
  for _, profile in ipairs(live) do
    for _, key in ipairs(profile.keys[keyring] or {}) do known[key] = true end
  end
  if active then known[active] = true end
  local ids = {}
  for key in pairs(known) do table.insert(ids, key) end
  rings[keyring] = {active = active, known = ids}
end

return cjson.encode({
  rings = rings,
  totals = totals,
  duplicate = duplicate,
  drained = redis.call('SISMEMBER', drained, nonce) == 1,
  stops = redis.call('HGETALL', stop_counts),
})
