-- Take, prolong or give back a lease on this node.
-- KEYS: marker, floor, the lease, the last token given under its name.
-- ARGV: the expected marker, what ("take"; "fence": take, and let later writes be newer than the token; "keep",
--       "free"; "copy": what another node holds), owner, ms, token, ms that the last token is kept.
-- Answers 1 when it was done, 0 when it was not, or the last token when a larger one is needed.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return redis.error_reply('CMMARKER ' .. (redis.call('GET', KEYS[1]) or ''))
end
local what, owner, token = ARGV[2], ARGV[3], ARGV[5]

-- Something of another type was not written by this program, and must not stand in its way.
local function held(key)
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'string' and kind ~= 'none' then
        redis.call('DEL', key)
    end
    return redis.call('GET', key)
end

-- A token that cannot be read would be larger than all that are ever given.
local function token_at(key)
    local found = held(key)
    return found and string.find(found, '^[0-5]' .. string.rep('[0-9a-f]', 23) .. '$') and found or ''
end

if what == 'take' or what == 'fence' then
    if held(KEYS[3]) then
        return 0
    end
    local last = token_at(KEYS[4])
    if token <= last then
        return last
    end
    redis.call('SET', KEYS[3], owner, 'PX', ARGV[4])
    redis.call('SET', KEYS[4], token, 'PX', ARGV[6])
    -- Deletes and overwrites from now on are newer than what is computed under this lease; see put.lua.
    if what == 'fence' and token_at(KEYS[2]) < token then
        redis.call('SET', KEYS[2], token)
    end
    return 1
end
if what == 'copy' then
    if owner ~= '' and not held(KEYS[3]) then
        redis.call('SET', KEYS[3], owner, 'PX', ARGV[4])
    end
    if token > token_at(KEYS[4]) then
        redis.call('SET', KEYS[4], token, 'PX', ARGV[6])
    end
    return 1
end
if held(KEYS[3]) ~= owner then
    return 0
end
if what == 'keep' then
    redis.call('PEXPIRE', KEYS[3], ARGV[4])
else
    redis.call('DEL', KEYS[3])
end
return 1
