-- Add a token to a bucket (a sorted set by time in microseconds) and return 0. If the bucket is full, add nothing and return the
-- microseconds until it has room.
local bucket = KEYS[1]
local token, limit, window = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])  -- token: '' to add none; window: microseconds

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', bucket, '-inf', string.format('%.0f', now - window))
if redis.call('ZCARD', bucket) >= limit then
  local oldest = redis.call('ZRANGE', bucket, -limit, -limit, 'WITHSCORES')
  return math.max(oldest[2] + window - now, 1)
end
if token ~= '' then
  redis.call('ZADD', bucket, string.format('%.0f', now), token)
  redis.call('PEXPIRE', bucket, math.ceil(window / 1000))
end
return 0
