-- Answer the heads of copies ("" for none). KEYS: marker, then the records. ARGV: the expected marker.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return redis.error_reply('CMMARKER ' .. (redis.call('GET', KEYS[1]) or ''))
end
local heads = {}
for place = 2, #KEYS do
    heads[place - 1] = redis.call('GETRANGE', KEYS[place], 0, 38)
end
return heads
