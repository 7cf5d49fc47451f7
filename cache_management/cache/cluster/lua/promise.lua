-- Promise to accept no table from an earlier proposer; answer the promise held, and the table.
-- KEYS: promise, table. ARGV: the proposer's token.
local promised = redis.call('GET', KEYS[1]) or ''
if promised < ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[1])
    promised = ARGV[1]
end
return { promised, redis.call('GET', KEYS[2]) }
