-- Store a new session record, destroy the record that it replaces, and keep the owner below the maximum number of sessions.
-- Return 0 and store nothing if the owner's password has changed since it was checked, else 1.
local record, owner_sessions, owner_password_version, replaced = unpack(KEYS)  -- the last three may be nil
local ttl, min_index_ttl, password_version, max_sessions = unpack(ARGV, 1, 4)
local FIRST_FIELD = 5  -- ARGV continues with name, value, name, value...

if owner_sessions then
  local newest = redis.call('GET', owner_password_version)
  if newest and tonumber(newest) > tonumber(password_version) then return 0 end
  if replaced then redis.call('ZREM', owner_sessions, replaced) end
  if redis.call('ZCARD', owner_sessions) >= tonumber(max_sessions) then
    for _, key in ipairs(redis.call('ZRANGE', owner_sessions, 0, -1)) do
      if redis.call('EXISTS', key) == 0 then redis.call('ZREM', owner_sessions, key) end
    end
  end
  while redis.call('ZCARD', owner_sessions) >= tonumber(max_sessions) do
    redis.call('DEL', redis.call('ZPOPMIN', owner_sessions)[1])
  end
  local time = redis.call('TIME')
  redis.call('ZADD', owner_sessions, string.format('%.0f', time[1] * 1000000 + time[2]), record)
  if redis.call('TTL', owner_sessions) < tonumber(min_index_ttl) then redis.call('EXPIRE', owner_sessions, min_index_ttl) end
end
if replaced then redis.call('DEL', replaced) end
for i = FIRST_FIELD, #ARGV, 2 do redis.call('HSET', record, ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', record, ttl)
return 1
