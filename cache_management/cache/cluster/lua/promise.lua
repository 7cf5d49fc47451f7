-- Promise to accept no table from an earlier proposer; answer the promise held, and the table.
-- KEYS: promise, table. ARGV: the proposer's token.
-- One that cannot be read is larger than every token: the node has to be brought up anew first, see inspection.py.
local promised = redis.pcall('GET', KEYS[1]) or ''
if type(promised) ~= 'string' then
    return { 'unreadable', false }
end
if promised < ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[1])
    promised = ARGV[1]
end
return { promised, redis.call('GET', KEYS[2]) }
