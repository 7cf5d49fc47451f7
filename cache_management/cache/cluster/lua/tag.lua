-- Note keys under a tag, or forget them; drop those that expired; let the tag end with its last key.
-- KEYS: marker, the tag's sorted set.
-- ARGV: the expected marker, "add" or "remove", now in ms, then what to add as pairs of expiry in ms ("inf": never)
--       and key, or the keys to remove.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return redis.error_reply('CMMARKER ' .. (redis.call('GET', KEYS[1]) or ''))
end
-- Something of another type was not written by this program, and must not stand in its way.
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'zset' and kind ~= 'none' then
    redis.call('DEL', KEYS[2])
end
if ARGV[2] == 'add' then
    for at = 4, #ARGV, 2 do
        redis.call('ZADD', KEYS[2], ARGV[at], ARGV[at + 1])
    end
else
    for at = 4, #ARGV do
        redis.call('ZREM', KEYS[2], ARGV[at])
    end
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[3])
local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
if last == 'inf' then
    redis.call('PERSIST', KEYS[2])
elseif last then
    redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', tonumber(last)))
end
return 1
