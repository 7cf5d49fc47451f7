-- Count the sums of slots anew, page by page, beside the old ones; take them over where nothing was written meanwhile.
-- KEYS: marker, digests, the count (hash: slot -> "new sum:what stood there", and "by"), then the records of a page.
-- ARGV: the expected marker, who counts, what ("begin": with the slots; "add": with the slot of each record; "end").
-- Answers -1 when somebody else began since; at the end how many sums were wrong.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return redis.error_reply('CMMARKER ' .. (redis.call('GET', KEYS[1]) or ''))
end
local LIFE_SECONDS, VERSION, MODULUS = 3600, 24, 2 ^ 48
local COPY = '^[0-5]' .. string.rep('[0-9a-f]', 23) .. '[vdx]' .. string.rep('%d', 14) .. '$'
local who, what = ARGV[2], ARGV[3]
-- Something of another type was not written by this program, and must not stand in its way.
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'hash' and kind ~= 'none' then
    redis.call('DEL', KEYS[2])
end
if what == 'begin' then
    redis.call('DEL', KEYS[3])
    redis.call('HSET', KEYS[3], 'by', who)
    for at = 4, #ARGV do
        redis.call('HSET', KEYS[3], ARGV[at], '0:' .. (redis.call('HGET', KEYS[2], ARGV[at]) or ''))
    end
    redis.call('EXPIRE', KEYS[3], LIFE_SECONDS)
    return 0
end
if redis.call('HGET', KEYS[3], 'by') ~= who then
    return -1
end
if what == 'add' then
    for at = 4, #KEYS do
        local slot, head = ARGV[at], redis.pcall('GETRANGE', KEYS[at], 0, 38)
        local count = redis.call('HGET', KEYS[3], slot)
        if count and type(head) == 'string' and string.find(head, COPY) then
            local new, old = string.match(count, '^(%d+):(.*)$')
            local mark = tonumber(string.sub(redis.sha1hex(KEYS[at] .. string.sub(head, 1, VERSION)), 1, 12), 16)
            redis.call('HSET', KEYS[3], slot, string.format('%.0f', (tonumber(new) + mark) % MODULUS) .. ':' .. old)
        end
    end
    return 0
end
local wrong = 0
local counts = redis.call('HGETALL', KEYS[3])
for at = 1, #counts, 2 do
    local new, old = string.match(counts[at + 1], '^(%d+):(.*)$')
    -- Another sum than then: copies came or went, and may have been counted or not.
    if new and new ~= old and (redis.call('HGET', KEYS[2], counts[at]) or '') == old then
        redis.call('HSET', KEYS[2], counts[at], new)
        wrong = wrong + 1
    end
end
redis.call('DEL', KEYS[3])
return wrong
