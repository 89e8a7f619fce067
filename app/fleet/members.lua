-- The first part of each script of the registry: its keys and the bookkeeping of the members.
-- A heartbeat may not cost more because there are more instances. So scripts read how many members share a profile (status, pool
-- and keys) and who has missed a deadline, but not the entries of all.

local crash_records = KEYS[1] -- hash: nonce -> the stop to record if that instance never signs off; its fields are the instances
local active_keys = KEYS[2] -- hash: keyring -> id of its active key; "<keyring>:chosen" -> when a new fleet chose it, in ms
local stops = KEYS[3] -- list of stop records, newest first
local drained = KEYS[4] -- set of the nonces that an administrator drained
local heartbeats = KEYS[5] -- hash: `at`, the last heartbeat of any instance; `member_at`, of a member; `outage`, the end of the
-- last outage of Redis; `sockets`, the sum of `sockets`
local stop_counts = KEYS[6] -- hash: kind of stop -> how many there were
local members = KEYS[7] -- hash: nonce -> "<instance ID> <profile>", where a profile is "heard <JSON>" or "silent <JSON>"
local profiles = KEYS[8] -- hash: profile -> how many members have it
local deadlines = KEYS[9] -- sorted set: nonce -> when a member becomes silent or a silent one expires without a heartbeat, in ms
local starts = KEYS[10] -- sorted set: nonce -> the first heartbeat of a member, in ms
local names = KEYS[11] -- sorted set: "<instance ID> <nonce>" of each member, all with score 0
local sockets = KEYS[12] -- sorted set: nonce of a ready member -> its sockets

local entry_prefix = ARGV[1]

local function entry_key(of) return entry_prefix .. of end

-- Returns the instance ID and the profile of a member, or nothing.
local function member(of)
  local value = redis.call('HGET', members, of)
  if value then return value:match('^(.-) (.*)$') end
end

local function count_profile(profile, change)
  if redis.call('HINCRBY', profiles, profile, change) <= 0 then redis.call('HDEL', profiles, profile) end
end

-- Counts the sockets of a ready member; false: of one that is not ready any more.
local function set_sockets(of, count)
  local before = tonumber(redis.call('ZSCORE', sockets, of)) or false
  if before == count then return end
  redis.call('HINCRBY', heartbeats, 'sockets', (count or 0) - (before or 0))
  if count then redis.call('ZADD', sockets, count, of) else redis.call('ZREM', sockets, of) end
end

local function set_profile(of, instance_id, profile, before)
  if before then count_profile(before, -1) end
  count_profile(profile, 1)
  redis.call('HSET', members, of, instance_id .. ' ' .. profile)
end

-- Counts anew: when an instance joins, so that no sum stays wrong if Redis lost one of the keys.
local function recount()
  local counts, sum = {}, 0
  for _, value in ipairs(redis.call('HVALS', members)) do
    local profile = value:match(' (.*)$')
    counts[profile] = (counts[profile] or 0) + 1
  end
  redis.call('DEL', profiles)
  for profile, count in pairs(counts) do redis.call('HSET', profiles, profile, count) end
  local scores = redis.call('ZRANGE', sockets, 0, -1, 'WITHSCORES')
  for index = 2, #scores, 2 do sum = sum + scores[index] end
  redis.call('HSET', heartbeats, 'sockets', sum)
end

local function forget(of)
  local instance_id, profile = member(of)
  if profile then
    count_profile(profile, -1)
    redis.call('HDEL', members, of)
    redis.call('ZREM', names, instance_id .. ' ' .. of)
  end
  set_sockets(of, false)
  redis.call('ZREM', deadlines, of)
  redis.call('ZREM', starts, of)
end
