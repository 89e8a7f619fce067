-- Removes the entry of an instance that stops, and records its stop if it was registered.

local nonce = ARGV[2]
local stop_json = ARGV[3] -- empty: record nothing
local kind = ARGV[4]
local max_stops = tonumber(ARGV[5])

local was_registered = redis.call('HDEL', crash_records, nonce) == 1
redis.call('DEL', entry_key(nonce))
redis.call('SREM', drained, nonce)
forget(nonce)
if was_registered and stop_json ~= '' then
  redis.call('LPUSH', stops, stop_json)
  redis.call('LTRIM', stops, 0, max_stops - 1)
  redis.call('HINCRBY', stop_counts, kind, 1)
end
