-- Remove the entries that go first until about so many bytes are free.
-- KEYS: queue (sorted set), marks (hash), state (hash), ghosts (sorted set).
-- ARGV: rule, as for note_uses; bytes to free; how many entries at most; how many looks at most;
--       ms until state and ghosts may be forgotten.
-- Answers: bytes freed, names left in the queue, then the keys that were removed.
-- The first write is a removal: a server over its limit permits other writes only after one.
local queue, marks, state, ghosts = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local rule, surplus, most, looks = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local SMALL_SHARE, USES_TO_STAY = 0.1, 2 -- as in cache/eviction/s3fifo.py
local MAIN, BELOW_MAIN = 2 ^ 50, '(1125899906842624'

local function uses_of(key)
    return tonumber(redis.call('HGET', marks, key) or 0)
end

local function to_main(key, uses)
    redis.call('ZREM', queue, key)
    redis.call('ZADD', queue, MAIN + redis.call('HINCRBY', state, 'tick', 1), key)
    redis.call('HSET', marks, key, uses)
end

-- Every look counts: a long round through a queue of used entries must not hold up the server.
local function first(low, high, uses_to_stay)
    while looks > 0 do
        looks = looks - 1
        local key = redis.call('ZRANGEBYSCORE', queue, low, high, 'LIMIT', 0, 1)[1]
        if not key then
            return nil
        end
        local uses = uses_of(key)
        if uses < uses_to_stay then
            return key
        end
        to_main(key, low == MAIN and uses - 1 or 0)
    end
end

local function victim()
    if rule ~= 's3fifo' then
        looks = looks - 1
        return unpack(redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES'))
    end
    local key
    if redis.call('ZCOUNT', queue, '-inf', BELOW_MAIN) >= SMALL_SHARE * redis.call('ZCARD', queue) then
        key = first('-inf', BELOW_MAIN, USES_TO_STAY)
    end
    return key or first(MAIN, '+inf', 1) or first('-inf', BELOW_MAIN, USES_TO_STAY)
end

local freed, removed = 0, {}
while freed < surplus and #removed < most and looks > 0 do
    local key, rank = victim()
    if not key then
        break
    end
    local was_small = rule == 's3fifo' and tonumber(redis.call('ZSCORE', queue, key)) < MAIN
    -- Expired or deleted ones stay in the queue until somebody looks; they free nothing.
    local bytes = redis.call('MEMORY', 'USAGE', key)
    local was_there = redis.call('DEL', key) == 1
    redis.call('ZREM', queue, key)
    redis.call('HDEL', marks, key)
    if was_there then
        freed = freed + (bytes or 0)
        removed[#removed + 1] = key
        if rule == 'lfu' then
            redis.call('HSET', state, 'age', rank)
        end
        if was_small then
            redis.call('ZADD', ghosts, redis.call('HINCRBY', state, 'tick', 1), key)
            local too_many = redis.call('ZCARD', ghosts) - redis.call('ZCARD', queue) - 1
            if too_many > 0 then
                redis.call('ZPOPMIN', ghosts, too_many)
            end
        end
    end
end
if #removed > 0 then
    redis.call('HSET', state, 'was_full', 1)
    redis.call('PEXPIRE', state, ARGV[5])
    redis.call('PEXPIRE', ghosts, ARGV[5])
end
return { freed, redis.call('ZCARD', queue), unpack(removed) }
