-- Store copies, each only where nothing newer is held.
-- KEYS: marker, digests (hash: slot -> sum), floor, when the last copy came in, then the records.
-- ARGV: the marker that the client expects, how ("w" write, "f" write under a fencing token, "c" copy of what another
--       node holds) and the moment in ms after which it comes too late, then for each record its slot and what to
--       store (see cluster/envelope.py).
-- Answers for each record the head that was held before ("" for none), and "!" before it when it was not stored.
-- A write below the floor is answered with "!" and the floor: a lease was given since its version was made.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return redis.error_reply('CMMARKER ' .. (redis.call('GET', KEYS[1]) or ''))
end
local HEAD, VERSION, MODULUS = 39, 24, 2 ^ 48
local READABLE = '^[0-5]' .. string.rep('[0-9a-f]', 23)
local COPY = READABLE .. '[vdx]' .. string.rep('%d', 14) .. '$'
local how = string.sub(ARGV[2], 1, 1)
-- What was held up for long could bring back what was deleted or evicted, and forgotten, since.
local now = redis.call('TIME')
if now[1] * 1000 + now[2] / 1000 > tonumber(string.sub(ARGV[2], 2)) then
    return redis.error_reply('CMLATE this write comes too late')
end
local floor = how == 'w' and redis.pcall('GET', KEYS[3]) or ''
if type(floor) ~= 'string' or not string.find(floor, READABLE .. '$') then
    floor = ''
end

local function mark(key, version)
    return tonumber(string.sub(redis.sha1hex(key .. version), 1, 12), 16)
end

-- Only a help for comparisons: unreadable sums differ, and must not stand in the way of a write.
local function sum_of(slot)
    local sum = redis.pcall('HGET', KEYS[2], slot)
    if type(sum) == 'table' then
        redis.call('DEL', KEYS[2])
    end
    return type(sum) == 'string' and tonumber(sum) or 0
end

local answers = {}
local came_in = false
for place = 5, #KEYS do
    local key, slot, copy = KEYS[place], ARGV[2 * place - 7], ARGV[2 * place - 6]
    local version = string.sub(copy, 1, VERSION)
    local held = redis.pcall('GETRANGE', key, 0, HEAD - 1)
    -- What is no copy, or no string, is written over.
    if type(held) ~= 'string' or not string.find(held, COPY) then
        held = ''
    end
    local held_version = string.sub(held, 1, VERSION)
    local is_new = held_version < version
    if version < floor then
        answers[#answers + 1] = '!' .. floor
    elseif held_version > version or (how == 'f' and not is_new) then
        answers[#answers + 1] = '!' .. held
    else
        -- One that is held already counts as stored; a stub of it stays a stub.
        if is_new then
            came_in = came_in or how == 'c'
            redis.call('SET', key, copy)
            local sum = sum_of(slot) + mark(key, version)
            if held ~= '' then
                sum = sum - mark(key, held_version) + MODULUS
            end
            redis.call('HSET', KEYS[2], slot, string.format('%.0f', sum % MODULUS))
        end
        answers[#answers + 1] = held
    end
end
if came_in then
    redis.call('SET', KEYS[4], now[1])
end
return answers
