-- Empty a node that is still what it was taken for; its promise stays, as others count on it.
-- KEYS: marker, promise. ARGV: the marker held ("" for none).
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
    return 0
end
local promise = redis.call('GET', KEYS[2])
redis.call('FLUSHDB')
if promise then
    redis.call('SET', KEYS[2], promise)
end
return 1
