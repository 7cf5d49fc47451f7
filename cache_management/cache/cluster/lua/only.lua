-- Run one command on one key, only if the node is what the client takes it for.
-- KEYS: marker, the key. ARGV: the expected marker, the command's name, then what follows the key.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return redis.error_reply('CMMARKER ' .. (redis.call('GET', KEYS[1]) or ''))
end
local reply = redis.pcall(ARGV[2], KEYS[2], unpack(ARGV, 3))
-- Something of another type was not written by this program, and must not stand in its way.
if type(reply) == 'table' and reply.err and string.find(reply.err, 'WRONGTYPE', 1, true) then
    redis.call('DEL', KEYS[2])
    return redis.call(ARGV[2], KEYS[2], unpack(ARGV, 3))
end
return reply
