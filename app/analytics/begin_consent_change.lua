-- Mark a person's consent as changing. Until the change is committed or the mark expires, the consent is not cached.
local consent_key, changes_key = KEYS[1], KEYS[2]
local ttl_seconds = tonumber(ARGV[1])

redis.call('DEL', consent_key)
redis.call('HINCRBY', changes_key, 'count', 1)
-- A concurrent change that takes longer needs its mark as long as it runs.
if redis.call('TTL', changes_key) < ttl_seconds then redis.call('EXPIRE', changes_key, ttl_seconds) end
