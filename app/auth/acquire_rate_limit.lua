-- Add a token to all buckets (sorted sets by time in microseconds) and return 0. If a bucket is full, add nothing and return
-- the microseconds until each has room.
local buckets = KEYS
local token = ARGV[1]
local function limit_of(i) return tonumber(ARGV[2 * i]) end
local function window_of(i) return tonumber(ARGV[2 * i + 1]) end  -- microseconds

local time = redis.call('TIME')
local now, wait = time[1] * 1000000 + time[2], 0
for i, bucket in ipairs(buckets) do
  local limit, window = limit_of(i), window_of(i)
  redis.call('ZREMRANGEBYSCORE', bucket, '-inf', string.format('%.0f', now - window))
  if redis.call('ZCARD', bucket) >= limit then
    local oldest = redis.call('ZRANGE', bucket, -limit, -limit, 'WITHSCORES')
    wait = math.max(wait, oldest[2] + window - now, 1)
  end
end
if wait > 0 then return wait end
for i, bucket in ipairs(buckets) do
  redis.call('ZADD', bucket, string.format('%.0f', now), token)
  redis.call('PEXPIRE', bucket, math.ceil(window_of(i) / 1000))
end
return 0
