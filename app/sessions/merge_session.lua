-- Apply changes to the fields of a session record that still exists. Return 0 if it does not exist, else 1.
local record = KEYS[1]
local ttl = ARGV[1]  -- seconds, or '' to leave it
local FIRST_CHANGE = 2  -- ARGV continues with five values per change, see below

if redis.call('EXISTS', record) == 0 then return 0 end
local applied = 0
for i = FIRST_CHANGE, #ARGV, 5 do
  local field, has_expected, expected, has_value, value = unpack(ARGV, i, i + 4)  -- has_...: '=' or ''
  if has_expected == '' or redis.call('HGET', record, field) == expected then
    applied = applied + 1
    if has_value == '' then redis.call('HDEL', record, field) else redis.call('HSET', record, field, value) end
  end
end
if ttl ~= '' and applied > 0 then redis.call('EXPIRE', record, ttl) end
return 1
