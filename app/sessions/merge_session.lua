-- Apply changes to the fields of a session record that still exists. Return 0 if it does not exist, else 1.
local record, owner_sessions = unpack(KEYS)  -- owner_sessions may be nil
local ttl, min_index_ttl = unpack(ARGV, 1, 2)  -- seconds; ttl: '' to leave it
local FIRST_CHANGE = 3  -- ARGV continues with five values per change, see below

if redis.call('EXISTS', record) == 0 then return 0 end
local applied = 0
for i = FIRST_CHANGE, #ARGV, 5 do
  local field, has_expected, expected, has_value, value = unpack(ARGV, i, i + 4)  -- has_...: '=' or ''
  if has_expected == '' or redis.call('HGET', record, field) == expected then
    applied = applied + 1
    if has_value == '' then redis.call('HDEL', record, field) else redis.call('HSET', record, field, value) end
  end
end
if ttl == '' or applied == 0 then return 1 end
redis.call('EXPIRE', record, ttl)
if owner_sessions then
  -- The index must not expire before the record: an instance with a shorter maximum life may have written it.
  local time = redis.call('TIME')
  redis.call('ZADD', owner_sessions, 'NX', string.format('%.0f', time[1] * 1000000 + time[2]), record)
  if redis.call('TTL', owner_sessions) < tonumber(min_index_ttl) then redis.call('EXPIRE', owner_sessions, min_index_ttl) end
end
return 1
