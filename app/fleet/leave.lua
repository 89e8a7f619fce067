-- Removes the entry of an instance that stops, and records its stop if it was registered.

local crash_records = KEYS[1]
local stops = KEYS[3]
local drained = KEYS[4]
local stop_counts = KEYS[6]

local nonce = ARGV[1]
local stop_json = ARGV[2] -- empty: record nothing
local kind = ARGV[3]
local max_stops = tonumber(ARGV[4])

redis.call('DEL', 'fleet:instance:' .. nonce)
redis.call('SREM', drained, nonce)
if redis.call('HDEL', crash_records, nonce) == 1 and stop_json ~= '' then
  redis.call('LPUSH', stops, stop_json)
  redis.call('LTRIM', stops, 0, max_stops - 1)
  redis.call('HINCRBY', stop_counts, kind, 1)
end
