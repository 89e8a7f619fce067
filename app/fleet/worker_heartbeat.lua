-- The heartbeat of one worker: renews its entry and adds the durations of its jobs. It reads no other entry.

local nonce = ARGV[1]
local entry_json = ARGV[2]

if redis.call('ZADD', seen, now, nonce) == 1 then
  -- This worker is new, or was recorded as crashed although it had only lost its connection: remove the record.
  for _, stop_json in ipairs(redis.call('LRANGE', stops, 0, -1)) do
    if cjson.decode(stop_json).nonce == nonce then redis.call('LREM', stops, 1, stop_json) end
  end
end
redis.call('HSET', workers, nonce, entry_json)
for index = 3, #ARGV, 2 do redis.call('HINCRBYFLOAT', job_seconds, ARGV[index], ARGV[index + 1]) end
