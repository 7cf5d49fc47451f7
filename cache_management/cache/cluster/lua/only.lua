-- Run one command on one key, only if the node is what the client takes it for.
-- KEYS: marker, the key. ARGV: the expected marker, the command's name, then what follows the key.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return redis.error_reply('CMMARKER ' .. (redis.call('GET', KEYS[1]) or ''))
end
return redis.call(ARGV[2], KEYS[2], unpack(ARGV, 3))
