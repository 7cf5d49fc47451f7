-- Store or remove a record if the one that is held has a certain version.
-- KEYS: the record. ARGV: the version that must be held, 8 bytes as they stand in a frame (see cache/codec.py; "" when
--       nothing may be held), the frame ("" removes), when it expires, in ms since 1970 ("" never), and the writer's moment in seconds.
local AT, HEAD = 12, 28 -- where the version stands in a frame, and how long the frame's head is; it ends with the expiry
local held = redis.pcall('GETRANGE', KEYS[1], 0, HEAD - 1)
-- What is no frame was not written by this program, and counts as nothing.
local version = ''
if type(held) == 'string' and #held == HEAD and string.sub(held, 1, 2) == 'CM' then
    version = string.sub(held, AT + 1, AT + 8)
    -- What the writer reads as expired is nothing to it, though this server's clock may be behind; never is NaN.
    if struct.unpack('<d', string.sub(held, AT + 9, HEAD)) <= tonumber(ARGV[4]) then
        version = ''
    end
end
if version ~= ARGV[1] then
    return 0
end
if ARGV[2] == '' then
    redis.call('DEL', KEYS[1])
elseif ARGV[3] == '' then
    redis.call('SET', KEYS[1], ARGV[2])
else
    redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
end
return 1
