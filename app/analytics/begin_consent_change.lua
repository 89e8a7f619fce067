-- Mark a person's consent as changing. Until the change is committed or the mark expires, the consent is not cached.
local consent_key, changes_key = KEYS[1], KEYS[2]
local ttl_seconds = ARGV[1]

redis.call('DEL', consent_key)
redis.call('HINCRBY', changes_key, 'count', 1)
redis.call('EXPIRE', changes_key, ttl_seconds)
