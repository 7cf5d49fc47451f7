-- Append notes to a stream that do not stand in it yet under their ids; answer the stream's last entry.
-- KEYS: marker, stream. ARGV: the expected marker, how many to keep, ms that the stream lives, then id and note.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return redis.error_reply('CMMARKER ' .. (redis.call('GET', KEYS[1]) or ''))
end
-- Something of another type was not written by this program, and must not stand in its way.
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'stream' and kind ~= 'none' then
    redis.call('DEL', KEYS[2])
end
local last
for at = 4, #ARGV, 2 do
    last = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'n', ARGV[at], 'i', ARGV[at + 1])
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return last
