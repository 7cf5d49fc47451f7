-- Answer the heads of copies ("" for none). KEYS: marker, then the records. ARGV: the expected marker.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return redis.error_reply('CMMARKER ' .. (redis.call('GET', KEYS[1]) or ''))
end
-- What is no copy is nothing, see put.lua.
local COPY = '^[0-5]' .. string.rep('[0-9a-f]', 23) .. '[vdx]' .. string.rep('%d', 14) .. '$'
local heads = {}
for place = 2, #KEYS do
    local head = redis.pcall('GETRANGE', KEYS[place], 0, 38)
    heads[place - 1] = type(head) == 'string' and string.find(head, COPY) and head or ''
end
return heads
