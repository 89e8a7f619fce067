-- Records workers that vanished as crashed. Returns how many workers are left, and the time of this server, in ms.

local entry_ttl_ms = tonumber(ARGV[1])
local outage_ms = tonumber(ARGV[2])
local max_stops = tonumber(ARGV[3])

-- After an outage of Redis, nobody is declared dead until everyone had time to report again.
local last_at, outage = unpack(redis.call('HMGET', heartbeats, 'at', 'outage'))
if last_at and now - last_at <= outage_ms and now - (outage or 0) > entry_ttl_ms then
  for _, nonce in ipairs(redis.call('ZRANGEBYSCORE', seen, '-inf', '(' .. now - entry_ttl_ms)) do
    local entry_json = redis.call('HGET', workers, nonce)
    if entry_json then
      local crash = cjson.decode(entry_json).crash_record
      crash.at = now
      record_stop(cjson.encode(crash), max_stops)
      redis.call('HDEL', workers, nonce)
    end
    redis.call('ZREM', seen, nonce)
  end
end
return {redis.call('ZCARD', seen), now}
