-- Forget those names of the queue that lead to no entry any more; answer how many.
-- KEYS: queue (sorted set), marks (hash). ARGV: the names.
local forgotten = 0
for _, key in ipairs(ARGV) do
    if redis.call('EXISTS', key) == 0 then
        forgotten = forgotten + redis.call('ZREM', KEYS[1], key)
        redis.call('HDEL', KEYS[2], key)
    end
end
return forgotten
