-- Append a person's events to the stream. Returns 'accepted', 'opted_out', 'unknown' (consent is not cached) or 'full'.
local consent_key, changes_key, stream_key = KEYS[1], KEYS[2], KEYS[3]
local consent_in_sql, ttl_ms, max_backlog = ARGV[1], ARGV[2], tonumber(ARGV[3]) -- consent_in_sql is '' if not read
local FIRST_EVENT = 4

local consent = consent_in_sql
if redis.call('EXISTS', changes_key) == 0 then
  local cached = redis.call('GET', consent_key)
  if cached then
    consent = cached
  elseif consent ~= '' then
    redis.call('SET', consent_key, consent, 'PX', ttl_ms)
  end
end
if consent == '' then return 'unknown' end

local version, state, pseudonym = string.match(consent, '^(%d+) (%a+) (%w+)')
if state ~= 'open' then return 'opted_out' end
if redis.call('XLEN', stream_key) + #ARGV - FIRST_EVENT + 1 > max_backlog then return 'full' end
for i = FIRST_EVENT, #ARGV do
  redis.call('XADD', stream_key, '*', 'person', pseudonym, 'version', version, 'event', ARGV[i])
end
return 'accepted'
