-- Note keys under a tag, drop those that expired, let the tag end with its last key.
-- KEYS: the tag's sorted set. ARGV: now in ms, then pairs of expiry in ms ("inf": never) and key.
for at = 2, #ARGV, 2 do
    redis.call('ZADD', KEYS[1], ARGV[at], ARGV[at + 1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if last == 'inf' then
    redis.call('PERSIST', KEYS[1])
elseif last then
    redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', tonumber(last)))
end
return 0
