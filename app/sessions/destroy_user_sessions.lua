-- Destroy all session records of a user but one, and return how many. The minimum password version only ever rises.
local sessions, min_password_version = unpack(KEYS)
local password_version, ttl, kept = unpack(ARGV)  -- password_version: '' to leave it; ttl: seconds; kept: '' for none

local destroyed = 0
for _, key in ipairs(redis.call('ZRANGE', sessions, 0, -1)) do
  if key ~= kept then
    destroyed = destroyed + redis.call('DEL', key)
    redis.call('ZREM', sessions, key)
  end
end
if password_version ~= '' and tonumber(password_version) > tonumber(redis.call('GET', min_password_version) or 0) then
  redis.call('SET', min_password_version, password_version, 'EX', ttl)
end
return destroyed
