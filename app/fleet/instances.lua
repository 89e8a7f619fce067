-- Returns the time in ms and then, for each instance with an entry: its nonce, one field of the entry, when the instance was last
-- seen in ms, and whether an administrator drained it. It reads all entries, so it is not a part of heartbeats.

local field = ARGV[2]

local time = redis.call('TIME')
local found = {time[1] * 1000 + math.floor(time[2] / 1000)}
for _, nonce in ipairs(redis.call('HKEYS', crash_records)) do
  local value, seen = unpack(redis.call('HMGET', entry_key(nonce), field, 'seen'))
  if value then table.insert(found, {nonce, value, tonumber(seen), redis.call('SISMEMBER', drained, nonce)}) end
end
return found
