-- Change a node's marker if it is still the one that was looked at; keep the table that it goes with.
-- KEYS: marker, table. ARGV: the marker held ("" for none), the new one, the table's version, the table.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[2])
local held = redis.call('GET', KEYS[2])
if not held or string.sub(held, 1, #ARGV[3]) < ARGV[3] then
    redis.call('SET', KEYS[2], ARGV[3] .. ARGV[4])
end
return 1
