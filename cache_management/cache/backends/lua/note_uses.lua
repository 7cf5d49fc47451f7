-- Note what was stored, read and removed, so that a sweep knows what goes first.
-- KEYS: queue (sorted set), marks (hash), state (hash), ghosts (sorted set).
-- ARGV: rule ("lru", "ttl", "lfu" for every rule that counts uses, "s3fifo"),
--       ms until all of this may be forgotten, then for each key: key, what, times, worth, place.
--       what: "s" stored, "r" read, "d" removed. worth: what one use adds to the rank, for "lfu".
--       place: seconds of the last use for "lru", of the expiry for "ttl".
local queue, marks, state, ghosts = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local rule = ARGV[1]
local MOST_USES, MAIN = 3, 2 ^ 50 -- as in cache/eviction/s3fifo.py; the main queue stands behind the small one
local age = tonumber(redis.call('HGET', state, 'age') or 0)
local was_full = redis.call('HGET', state, 'was_full')

local function note(key, what, times, worth, place)
    if what == 'd' then
        redis.call('ZREM', queue, key)
        redis.call('HDEL', marks, key)
        return
    end
    local stored = what == 's'
    if rule == 'lru' then
        redis.call('ZADD', queue, place, key)
    elseif rule == 'ttl' then
        if stored then
            redis.call('ZADD', queue, place, key)
        end
    elseif rule == 'lfu' then
        local mark = redis.call('HGET', marks, key)
        local uses, kept = 0, worth
        if mark then
            uses, kept = string.match(mark, '(%S+) (%S+)')
        end
        uses = uses + times
        if stored then
            kept = worth
        end
        redis.call('HSET', marks, key, uses .. ' ' .. kept)
        redis.call('ZADD', queue, age + uses * kept, key)
    elseif redis.call('ZSCORE', queue, key) then
        local uses = tonumber(redis.call('HGET', marks, key) or 0)
        redis.call('HSET', marks, key, math.min(MOST_USES, uses + times))
    else
        local tick = redis.call('HINCRBY', state, 'tick', 1)
        -- Until the store is full nothing has to make room: what comes by then skips probation.
        if not was_full or redis.call('ZREM', ghosts, key) == 1 then
            tick = tick + MAIN
        end
        redis.call('ZADD', queue, tick, key)
        redis.call('HSET', marks, key, math.min(MOST_USES, times - (stored and 1 or 0)))
    end
end

for at = 3, #ARGV, 5 do
    note(ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3], ARGV[at + 4])
end
for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, ARGV[2])
end
return redis.call('ZCARD', queue)
