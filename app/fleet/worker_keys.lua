-- The registry of worker processes: the first part of each of its scripts. It only reads the one key that it shares with the
-- registry of instances, `heartbeats`. So it does not affect an instance of a release that does not know workers.

local workers = KEYS[1] -- hash: nonce -> the entry of a worker, JSON with `about` and `crash_record`
local seen = KEYS[2] -- sorted set: nonce -> the last heartbeat of that worker, in ms
local stops = KEYS[3] -- list of the stops of workers, newest first
local job_seconds = KEYS[4] -- hash: key -> value of the histogram of all workers
local heartbeats = KEYS[5] -- hash of the registry of instances, see members.lua

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function record_stop(stop_json, max_stops)
  redis.call('LPUSH', stops, stop_json)
  redis.call('LTRIM', stops, 0, max_stops - 1)
end
