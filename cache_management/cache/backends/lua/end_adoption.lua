-- Say that the queue knows every entry, unless notes were lost since the adoption began.
-- KEYS: state (hash). ARGV: the adoption's token.
-- Answers: 1 when the queue knows every entry, 0 when another adoption has to find what was lost.
local state, token = KEYS[1], ARGV[1]

if redis.call('HGET', state, 'adoption') ~= token then
    return redis.call('HEXISTS', state, 'adopted')
end
redis.call('HDEL', state, 'adoption')
redis.call('HSET', state, 'adopted', 1)
return 1
