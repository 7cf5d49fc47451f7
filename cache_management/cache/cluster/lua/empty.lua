-- Empty a node that is still what it was taken for; its promise stays, as others count on it, if it can be read.
-- KEYS: marker, promise. ARGV: the marker held ("" for none).
local function held(key)
    local found = redis.pcall('GET', key)
    return type(found) == 'string' and found or ''
end
if held(KEYS[1]) ~= ARGV[1] then
    return 0
end
local promise = held(KEYS[2])
redis.call('FLUSHDB')
if string.find(promise, '^[0-5]' .. string.rep('[0-9a-f]', 23) .. '$') then
    redis.call('SET', KEYS[2], promise)
end
return 1
