-- End a change and cache the resulting consent. Of concurrent changes, the last one to end caches the newest version.
local consent_key, changes_key = KEYS[1], KEYS[2]
local consent, version, ttl_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local function version_of(other) return other and tonumber(string.match(other, '^%d+')) or -1 end

local newest = consent
for _, other in ipairs({redis.call('GET', consent_key), redis.call('HGET', changes_key, 'newest')}) do
  if version_of(other) > version then newest = other end
end
if redis.call('EXISTS', changes_key) == 1 and redis.call('HINCRBY', changes_key, 'count', -1) > 0 then
  redis.call('HSET', changes_key, 'newest', newest)
  return
end
redis.call('DEL', changes_key)
redis.call('SET', consent_key, newest, 'PX', ttl_ms)
