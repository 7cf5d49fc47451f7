-- Keep a table, unless this node promised to wait for a later proposer or holds a newer one.
-- KEYS: promise, table, marker. ARGV: token, the table's version (epoch, then token), the table,
--       the marker held ("" for none), the marker to set ("" to leave it).
-- The marker changes in the same step: from here on clients of an earlier epoch are turned away.
local promised = redis.pcall('GET', KEYS[1]) or ''
if type(promised) ~= 'string' or promised > ARGV[1] then
    return 0
end
local held = redis.call('GET', KEYS[2])
local size = #ARGV[2]
if held and string.sub(held, 1, size) > ARGV[2] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2] .. ARGV[3])
if ARGV[5] ~= '' and (redis.call('GET', KEYS[3]) or '') == ARGV[4] then
    redis.call('SET', KEYS[3], ARGV[5])
end
return 1
