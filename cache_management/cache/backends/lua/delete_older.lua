-- Remove the records that are older than a version; what was written since then stays.
-- KEYS: the records. ARGV: the version, 8 bytes as they stand in a frame (see cache/codec.py).
-- Answers the places, from 1, of those that were removed.
local AT, HEAD = 12, 28 -- where the version stands in a frame, and how long the frame's head is
local wanted = ARGV[1]

-- Byte by byte, the last one first: a number of Lua does not hold 64 bits, and the last byte has the sign.
local function is_older(head)
    if #head < HEAD or string.sub(head, 1, 2) ~= 'CM' then
        return true
    end
    for at = 8, 1, -1 do
        local mine, other = string.byte(head, AT + at), string.byte(wanted, at)
        if at == 8 then
            mine, other = (mine + 128) % 256, (other + 128) % 256
        end
        if mine ~= other then
            return mine < other
        end
    end
    return false
end

local removed = {}
for place, key in ipairs(KEYS) do
    local head = redis.call('GETRANGE', key, 0, HEAD - 1)
    if #head > 0 and is_older(head) and redis.call('UNLINK', key) == 1 then
        removed[#removed + 1] = place
    end
end
return removed
