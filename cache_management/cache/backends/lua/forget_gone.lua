-- Look at some entries of the queue and forget those that expired; answer how many were forgotten.
-- KEYS: queue (sorted set), marks (hash). ARGV: how many to look at.
local forgotten = 0
for _, key in ipairs(redis.call('ZRANDMEMBER', KEYS[1], ARGV[1])) do
    if redis.call('EXISTS', key) == 0 then
        redis.call('ZREM', KEYS[1], key)
        redis.call('HDEL', KEYS[2], key)
        forgotten = forgotten + 1
    end
end
return forgotten
