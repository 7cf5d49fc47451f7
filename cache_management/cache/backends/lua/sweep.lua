-- Remove the entries that go first; answer how many went, by kind and namespace.
-- KEYS: queue (sorted set), marks (hash), state (hash), ghosts (sorted set).
-- ARGV: rule, as for note_uses; how many at most; ms until state and ghosts may be forgotten.
-- The first write is a removal: a server over its limit permits other writes only after one.
local queue, marks, state, ghosts = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local rule, most = ARGV[1], tonumber(ARGV[2])
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

local function leaving_small()
    while true do
        local key = redis.call('ZRANGEBYSCORE', queue, '-inf', BELOW_MAIN, 'LIMIT', 0, 1)[1]
        if not key or uses_of(key) < USES_TO_STAY then
            return key
        end
        to_main(key, 0)
    end
end

local function leaving_main()
    while true do
        local key = redis.call('ZRANGEBYSCORE', queue, MAIN, '+inf', 'LIMIT', 0, 1)[1]
        if not key then
            return nil
        end
        local uses = uses_of(key)
        if uses <= 0 then
            return key
        end
        to_main(key, uses - 1)
    end
end

local function victim()
    if rule ~= 's3fifo' then
        return unpack(redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES'))
    end
    local small = redis.call('ZCOUNT', queue, '-inf', BELOW_MAIN)
    local key = nil
    if small >= SMALL_SHARE * redis.call('ZCARD', queue) then
        key = leaving_small()
    end
    return key or leaving_main() or leaving_small(), nil
end

local removed, looked_at, went = {}, 0, 0
while went < most and looked_at < 20 * most do
    looked_at = looked_at + 1
    local key, rank = victim()
    if not key then
        break
    end
    local was_small = rule == 's3fifo' and tonumber(redis.call('ZSCORE', queue, key)) < MAIN
    -- Expired or deleted ones are in the queue until somebody looks; they free nothing and count for nothing.
    local was_there = redis.call('DEL', key) == 1
    redis.call('ZREM', queue, key)
    redis.call('HDEL', marks, key)
    if was_there then
        if rule == 'lfu' then
            redis.call('HSET', state, 'age', rank)
        end
        went = went + 1
        local group = string.match(key, '^[^:]*:([^:]*:[^:]*):') or ':'
        removed[group] = (removed[group] or 0) + 1
        if was_small then
            redis.call('ZADD', ghosts, redis.call('HINCRBY', state, 'tick', 1), key)
            local surplus = redis.call('ZCARD', ghosts) - redis.call('ZCARD', queue) - 1
            if surplus > 0 then
                redis.call('ZPOPMIN', ghosts, surplus)
            end
        end
    end
end
if went > 0 then
    redis.call('HSET', state, 'was_full', 1)
    redis.call('PEXPIRE', state, ARGV[3])
    redis.call('PEXPIRE', ghosts, ARGV[3])
end
local answer = {}
for group, count in pairs(removed) do
    answer[#answer + 1] = group
    answer[#answer + 1] = count
end
return answer
