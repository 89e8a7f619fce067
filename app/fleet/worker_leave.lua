-- Removes the entry of a worker that stops, and records its stop if it was registered.

local nonce = ARGV[1]
local stop_json = ARGV[2]
local max_stops = tonumber(ARGV[3])

redis.call('HDEL', workers, nonce)
if redis.call('ZREM', seen, nonce) == 1 then record_stop(stop_json, max_stops) end
